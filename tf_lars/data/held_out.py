"""Held-out examples of a data set, chosen by a rule that never changes."""

import hashlib

import numpy as np

from tf_lars.errors import InputError


def held_out_mask(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns which examples are held out: `count` in all, about the same share of every class.

    Within a class, examples are taken in the order of the SHA-256 of their number, so the split is
    the same with every version of every library. Shares are rounded by largest remainder.

    Args:
        labels: Integers of shape [examples].
        count: Number of examples to hold out.

    Returns:
        Booleans of shape [examples].

    Raises:
        InputError: There are fewer examples.
    """
    if not 0 <= count <= len(labels):
        raise InputError(
            f"From {len(labels):,} examples, 0 to {len(labels):,} can be held out. "
            f"Received: {count:,}."
        )
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / max(len(labels), 1)
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: count - counts.sum()]] += 1
    mask = np.zeros(len(labels), bool)
    for label, of_class in zip(classes, counts, strict=True):
        members = sorted(np.flatnonzero(labels == label), key=_order)
        mask[members[:of_class]] = True
    return mask


def _order(index: np.integer) -> bytes:
    return hashlib.sha256(str(int(index)).encode()).digest()

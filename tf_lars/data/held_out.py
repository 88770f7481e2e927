"""A part of a data set that is kept from training, chosen by a rule that never changes."""

import hashlib

import numpy as np

from tf_lars.errors import InputError


def held_out_mask(labels: np.ndarray, count: int) -> np.ndarray:
    """Which examples are held out: `count` of them, in every class about the same share.

    Within a class the examples are taken in the order of SHA-256 of their number, so the split is
    the same with every version of every library. Shares are rounded by largest remainder.

    Args:
        labels: integers of shape [examples].
        count: how many to hold out, from 0 to all.

    Returns:
        Booleans of shape [examples].

    Raises:
        InputError: there are not so many.
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

"""The learning rate by step as formulas that NumPy and TensorFlow compute alike.

`tf_lars.schedules` makes Keras schedules of them, in float32 in the graph. `rates` computes the
same numbers without TensorFlow, in float64. Where a formula takes `xp`, that is the module that
computes it: `numpy` or `tensorflow`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_lars.errors import InputError

STEP_DECAYS = (30 / 90, 60 / 90, 80 / 90)
"""Where, as shares of all steps, "step" divides the rate by 10 (Goyal et al., arXiv:1706.02677)."""

STEP_DECAY_RATE = 0.1
"""By which it multiplies the rate."""

SCHEDULES = ("polynomial", "cosine", "step", "constant")
"""Decays that may follow the warm-up, by name."""

UNKNOWN = "The schedule must be polynomial, cosine, step or constant. Received: {!r}."


def warmup(xp: Any, step: Any, after: Any, peak: float, steps: int, initial: float) -> Any:
    """Returns i + (p - i) * s/w below w, the steps of the warm-up, and `after` from there on."""
    if not steps:
        return after
    return xp.where(step < steps, initial + (peak - initial) * step / steps, after)


def fraction_left(xp: Any, step: Any, total_steps: int, warmup_steps: int) -> Any:
    """Returns 1 - (s-w)/(T-w): 1 at the end of the warm-up, 0 from T on."""
    # As (T-s)/(T-w): near the end, 1 minus a number near 1 would lose most of its digits.
    return xp.maximum(total_steps - step, 0.0) / max(total_steps - warmup_steps, 1)


def polynomial(left: Any, peak: float, end: float, power: float) -> Any:
    """Returns e + (p - e) * left**power."""
    return end + (peak - end) * left**power


def cosine(xp: Any, left: Any, peak: float, end: float) -> Any:
    """Returns e + (p - e) * (1 - cos(pi * left)) / 2."""
    return end + (peak - end) * 0.5 * (1.0 - xp.cos(math.pi * left))


def staircase(xp: Any, step: Any, peak: float, boundaries: Sequence[int], rate: float) -> Any:
    """Returns p * rate**n, where n boundaries are at or below s."""
    passed = sum((xp.where(step >= b, 1.0, 0.0) for b in boundaries), start=xp.zeros_like(step))
    return peak * rate**passed


def step_boundaries(total_steps: int) -> list[int]:
    """Returns the steps at which "step" divides the rate by 10."""
    return [round(share * total_steps) for share in STEP_DECAYS]


def rates(
    name: str,
    steps: Sequence[int] | np.ndarray,
    *,
    peak_learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    initial_learning_rate: float = 0.0,
    power: float = 2.0,
    end_learning_rate: float = 0.0,
) -> np.ndarray:
    """Returns the rates at some steps, `[n]`, as `tf_lars.schedules.create` would give them.

    Args:
      name: of what follows the warm-up: "polynomial", "cosine", "step" or "constant".
      steps: counted from 0, `[n]`.
      peak_learning_rate: p, the rate at the end of the warm-up.
      total_steps: T, the steps of the whole run.
      warmup_steps: w.
      initial_learning_rate: i, the rate at step 0 of a warm-up.
      power: of the polynomial; no other schedule reads it.
      end_learning_rate: e, of the polynomial and the cosine; no other schedule reads it.

    Raises:
      InputError: no such schedule.
    """
    step = np.asarray(steps, np.float64)
    after = np.maximum(step, warmup_steps)
    left = fraction_left(np, after, total_steps, warmup_steps)
    if name == "polynomial":
        decayed = polynomial(left, peak_learning_rate, end_learning_rate, power)
    elif name == "cosine":
        decayed = cosine(np, left, peak_learning_rate, end_learning_rate)
    elif name == "step":
        boundaries = step_boundaries(total_steps)
        decayed = staircase(np, after, peak_learning_rate, boundaries, STEP_DECAY_RATE)
    elif name == "constant":
        decayed = np.full_like(step, peak_learning_rate)
    else:
        raise InputError(UNKNOWN.format(name))
    return warmup(np, step, decayed, peak_learning_rate, warmup_steps, initial_learning_rate)

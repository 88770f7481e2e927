"""Formulas of learning rate schedules, for both NumPy and TensorFlow.

The Keras schedules of `tf_lars.schedules` evaluate them in the graph, in float32. `rates` evaluates
them without TensorFlow, in float64. The argument `xp` is the module to compute with, `numpy` or
`tensorflow`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_lars.errors import InputError

STEP_DECAYS = (30 / 90, 60 / 90, 80 / 90)
"""Boundaries of "step" as shares of all steps (Goyal et al., arXiv:1706.02677)."""

STEP_DECAY_RATE = 0.1
"""Factor on the rate at each boundary of "step"."""

SCHEDULES = ("polynomial", "cosine", "step", "constant")
"""Names of the decays after the warm-up."""

RATE_RULES = ("constant", "linear", "square_root")
"""Names of the rules by which the rate follows the batch in a ramp."""

UNKNOWN = "The schedule must be polynomial, cosine, step or constant. Received: {!r}."


def warmup(xp: Any, step: Any, after: Any, peak: float, steps: int, initial: float) -> Any:
    """Returns i + (p - i) * s/w during the warm-up of w steps, and `after` from step w."""
    if not steps:
        return after
    return xp.where(step < steps, initial + (peak - initial) * step / steps, after)


def fraction_left(xp: Any, step: Any, total_steps: int, warmup_steps: int) -> Any:
    """Returns 1 - (s-w)/(T-w), which is 1 at the end of the warm-up and 0 from T."""
    # Computed as (T-s)/(T-w): near the end, 1 minus a number near 1 would lose most digits.
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


def rate_factor(rule: str, ratio: float) -> float:
    """Returns the factor on the rate at a multiple of the first batch.

    Args:
      rule: "constant", "linear" for the ratio, or "square_root" for its square root.
      ratio: Batch over the first batch.

    Raises:
      InputError: The rule is unknown.
    """
    if rule not in RATE_RULES:
        raise InputError(f"The rule must be one of {', '.join(RATE_RULES)}. Received: {rule!r}.")
    return {"constant": 1.0, "linear": ratio, "square_root": math.sqrt(ratio)}[rule]


def ramped(
    xp: Any, step: Any, phases: Sequence[Sequence[int]], batch_size: int, rule: str
) -> tuple[Any, Any]:
    """Returns the equivalent step of a schedule for a fixed batch, and the factor on its rate.

    The equivalent step is the one at which a run of the fixed batch has used as many examples:
    (q + (s - f) B) / b, and the factor depends on B / b.

    Args:
      xp: Module to compute with.
      step: Step s.
      phases: `(f, q, B)` of each phase, its first step, the number of examples used before it and
        its batch; the first begins at (0, 0).
      batch_size: Fixed batch b.
      rule: See `rate_factor`.
    """
    equivalent, factor = step, xp.ones_like(step)
    for first_step, first_position, size in phases:
        ratio = size / batch_size
        here = first_position / batch_size + (step - first_step) * ratio
        equivalent = xp.where(step >= first_step, here, equivalent)
        factor = xp.where(step >= first_step, rate_factor(rule, ratio), factor)
    return equivalent, factor


def step_boundaries(total_steps: int) -> list[int]:
    """Returns the steps at which "step" divides the rate by 10, for a run of `total_steps`."""
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
    """Returns the rates of the schedule that `tf_lars.schedules.create` creates, `[n]`.

    Args:
      name: Name of the decay after the warm-up: "polynomial", "cosine", "step" or "constant".
      steps: Steps at which to evaluate the schedule, counted from 0, `[n]`.
      peak_learning_rate: Rate at the end of the warm-up, p.
      total_steps: Steps of the whole run, T.
      warmup_steps: Steps of the warm-up, w.
      initial_learning_rate: Rate at step 0 of a warm-up, i.
      power: Power of the polynomial; ignored by the other schedules.
      end_learning_rate: Final rate of the polynomial and the cosine, e; ignored by the others.

    Raises:
      InputError: The schedule is unknown.
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

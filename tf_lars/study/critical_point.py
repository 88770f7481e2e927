"""The critical batch at a point of training, from branches of it with different batches.

From one checkpoint, training continues over the same examples in the same order at batches
B_0 < B_1 < ..., each twice the one before, with the learning rate scaled by the optimizer's rule.
With L(B) the smoothed training loss at the end of a branch, the critical batch is the largest B for
which

    L(B) <= (1 + tolerance) L(B_0)

(Merrill et al. 2025, arXiv:2505.23971). Between the batches, L(B) / L(B_0) is interpolated in log B
by a monotone cubic. Repeats over other examples say how certain it is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

DRAWS = 4000
"""Number of draws from which an interval is computed."""


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """The critical batch at a point of training, in examples.

    Attributes:
      batches: Batches of the branches, increasing.
      excess: L(B) / L(B_0) - 1 of each, as a mean over the repeats.
      error: Standard error of each; NaN with a single repeat.
      critical_batch: Estimate; None if the excess stays on one side of the tolerance.
      low, high: Ends of the interval; None where it is not bounded by the batches that were tried,
        or is unknown because of a single repeat.
    """

    batches: Sequence[int]
    excess: Sequence[float]
    error: Sequence[float]
    critical_batch: float | None
    low: float | None
    high: float | None

    def efficient(self, tolerance: float) -> float:
        """Returns the largest batch that stays within the tolerance, of those that were tried."""
        if self.critical_batch is not None:
            return self.critical_batch
        return float(self.batches[-1 if self.excess[-1] <= tolerance else 0])


def measure(
    losses: Mapping[int, Sequence[float]],
    tolerance: float,
    *,
    probability: float = 0.95,
    seed: int = 0,
) -> CriticalPoint:
    """Returns the critical batch.

    Args:
      losses: Smoothed loss of each repeat, in the same order for each batch; inf if it diverged.
      tolerance: Relative excess of the loss that is allowed.
      probability: Probability of the interval.
      seed: Seed of the draws from which the interval is computed.
    """
    batches = sorted(losses)
    table = np.array([losses[batch] for batch in batches], float)  # [batches, repeats]
    ratios = np.where(np.isfinite(table), table / table[0], np.inf) - 1
    excess = ratios.mean(axis=1)
    repeats = table.shape[1]
    logs = np.log2(batches)
    estimate = _crossing(logs, excess, tolerance)
    if repeats < 2:
        unknown = [math.nan] * len(batches)
        return CriticalPoint(batches, excess.tolist(), unknown, _batch(estimate), None, None)
    error = _standard_errors(ratios)
    random = np.random.default_rng(seed)
    # Student's distribution, because the errors are estimated from few repeats.
    noise = random.standard_t(repeats - 1, size=(DRAWS, len(batches)))
    drawn = excess + np.where(np.isfinite(error), error, 0) * noise
    low, high = interval([_crossing(logs, one, tolerance) for one in drawn], probability)
    return CriticalPoint(
        batches, excess.tolist(), error.tolist(), _batch(estimate), _batch(low), _batch(high)
    )


def interval(values: Sequence[float], probability: float) -> tuple[float, float]:
    """Returns the central interval of drawn values, which may be infinite."""
    tail = (1 - probability) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _standard_errors(ratios: np.ndarray) -> np.ndarray:
    """Returns the standard error of each batch's mean ratio, `[batches]`.

    The deviation of a few repeats is uncertain itself. That of the noise grows smoothly with the
    batch, so each is averaged, as a variance, with its neighbours'.
    """
    with np.errstate(invalid="ignore"):  # of a batch that diverged
        variance = ratios.var(axis=1, ddof=1)
    # Losses beyond twice the first say nothing about the noise at the tolerance.
    usable = [i for i in range(1, len(variance)) if ratios[i].mean() < 1]
    smooth = variance.copy()
    for i in usable:  # the first batch has the error 0 by definition
        smooth[i] = variance[[j for j in (i - 1, i, i + 1) if j in usable]].mean()
    return np.sqrt(smooth / ratios.shape[1])


def _crossing(logs: np.ndarray, excess: np.ndarray, tolerance: float) -> float:
    """Returns log2 of the batch at which the excess passes the tolerance; -inf or inf without."""
    values = increasing(excess)
    above = np.flatnonzero(values > tolerance)
    if not above.size:
        return math.inf
    i = int(above[0])
    if i == 0:
        return -math.inf
    if not np.isfinite(values[i]):
        return float(logs[i - 1] + logs[i]) / 2
    finite = np.isfinite(values)
    slopes = _slopes(logs[finite], values[finite])
    low, high = 0.0, 1.0
    for _ in range(50):  # the cubic increases between two batches
        middle = (low + high) / 2
        below = _cubic(middle, logs[i - 1 : i + 1], values[i - 1 : i + 1], slopes[i - 1 : i + 1])
        low, high = (middle, high) if below <= tolerance else (low, middle)
    return float(logs[i - 1] + low * (logs[i] - logs[i - 1]))


def increasing(values: np.ndarray) -> np.ndarray:
    """Returns the increasing sequence with the least squared distance: pooled violators."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([float(value), 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n), (other, m) = pools[-2:]
            pools[-2:] = [[(one * n + other * m) / (n + m), n + m]]
    return np.concatenate([[mean] * int(count) for mean, count in pools])


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns slopes of a monotone cubic (Fritsch and Butland 1984), `[n]`."""
    if len(x) < 2:
        return np.zeros(len(x))
    secants = np.diff(y) / np.diff(x)
    slopes = np.empty(len(x))
    slopes[0], slopes[-1] = secants[0], secants[-1]
    for i in range(1, len(x) - 1):
        one, other = secants[i - 1], secants[i]
        slopes[i] = 0.0 if one * other <= 0 else 2 * one * other / (one + other)
    return slopes


def _cubic(t: float, x: np.ndarray, y: np.ndarray, slopes: np.ndarray) -> float:
    """Returns Hermite's cubic between two points, at a fraction t of the way."""
    width = x[1] - x[0]
    return float(
        (2 * t**3 - 3 * t**2 + 1) * y[0]
        + (t**3 - 2 * t**2 + t) * width * slopes[0]
        + (3 * t**2 - 2 * t**3) * y[1]
        + (t**3 - t**2) * width * slopes[1]
    )


def _batch(log: float) -> float | None:
    return 2.0**log if math.isfinite(log) else None

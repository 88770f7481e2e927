"""B_crit of E(B) = E_min (1 + B/B_crit), from the losses along branches with different batches.

A branch of the batch B ends with a loss that the smallest batch B_0 has had earlier, after a share
y of the same examples. So for this progress B needs 1/y times the examples of B_0, and with E(B)
the examples that B needs (McCandlish et al., arXiv:1812.06162, section 2.3)

    y(B) = E(B_0) / E(B) = (1 + B_0/B_crit) / (1 + B/B_crit)

B_crit is fitted by least squares to y of all batches whose branches make progress: where the rate,
scaled by a rule, has become too large, the law says nothing, since it assumes a tuned rate. Each
repeat compares branches over the same examples, which removes most of the noise; the spread over
the repeats weights the batches and says how certain the result is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tf_lars.study.critical_point import DRAWS, increasing, interval

_LEAST_ERROR = 0.02
"""Standard error of y that no batch falls below, because the law itself is approximate."""

_AHEAD = 1.5
"""Largest y: the smallest batch's curve is continued up to here."""

_INVERSES = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 1201)])
"""Values of B_0/B_crit that are tried."""


@dataclasses.dataclass(frozen=True)
class LawFit:
    """B_crit in examples, by branches from one point of training.

    Attributes:
      critical_batch: Estimate; None where the branches do not tell.
      low, high: Ends of its interval; None where it is unbounded, or unknown for a single repeat.
        Without an estimate, the largest batch that was tried if none needed more examples than the
        smallest; the smallest if all others need several times as many.
      shares: y(B) of each batch that was used, as a mean over the repeats.
    """

    critical_batch: float | None
    low: float | None
    high: float | None
    shares: Mapping[int, float]


def fit(
    losses: Mapping[int, Sequence[Sequence[float]]], *, probability: float = 0.68, seed: int = 0
) -> LawFit:
    """Returns B_crit.

    Args:
      losses: Losses of the equal blocks of each branch, by batch: `[repeats, blocks]`, the repeats
        in the same order for each batch; inf from where a branch diverged.
      probability: Probability of the interval.
      seed: Seed of the draws from which the interval is computed.
    """
    smallest, *larger = sorted(losses)
    table = {
        batch: [
            _share(one, reference)
            for one, reference in zip(losses[batch], losses[smallest], strict=True)
        ]
        for batch in larger
    }
    if any(math.isnan(share) for shares in table.values() for share in shares):
        return LawFit(None, None, None, {})
    used = [batch for batch in larger if _progresses(losses[batch])]
    if not used:
        return LawFit(None, None, float(smallest), {})
    shares = np.array([table[batch] for batch in used])  # [batches, repeats]
    means, repeats = shares.mean(axis=1), shares.shape[1]
    measured = {batch: float(mean) for batch, mean in zip(used, means, strict=True)}
    ratios = np.array(used) / smallest
    if repeats < 2:
        estimate = _fit(ratios, means[None], np.ones(len(used)))[0]
        return LawFit(_batch(smallest, estimate), None, None, measured)
    if (means >= 1).all():
        return LawFit(None, float(used[-1]), None, measured)
    # The deviation of a few repeats is uncertain itself: neighbours share theirs.
    variances = shares.var(axis=1, ddof=1) / repeats
    errors = np.sqrt([variances[max(0, i - 1) : i + 2].mean() for i in range(len(used))])
    weights = 1 / (errors**2 + _LEAST_ERROR**2)
    estimate = _fit(ratios, means[None], weights)[0]
    drawn = _fit(ratios, _draws(shares, seed), weights)
    if estimate == _INVERSES[-1]:
        return LawFit(None, None, float(smallest), measured)
    low, high = interval(drawn.tolist(), probability)
    # A large B_0/B_crit is a small B_crit.
    ends = (_batch(smallest, max(high, estimate)), _batch(smallest, min(low, estimate)))
    return LawFit(_batch(smallest, estimate), *ends, measured)


def _progresses(losses: Sequence[Sequence[float]]) -> bool:
    """Returns whether the branches of a batch end below their beginning, in the mean."""
    table = np.array(losses)
    return bool(np.isfinite(table).all() and (table[:, -2:].mean() < table[:, 0].mean()))


def _share(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Returns y: where on the curve of the smallest batch a branch ends; NaN without a curve.

    Both curves are means over two neighbouring blocks. The curve of the smallest batch is made
    decreasing, interpolated in the logarithm of the loss, and continued beyond its end as it
    declines over its second half.
    """
    curve = (np.array(reference[:-1]) + np.array(reference[1:])) / 2
    end = (losses[-1] + losses[-2]) / 2
    if not (np.isfinite(curve).all() and (curve > 0).all() and end > 0):
        return math.nan
    if not math.isfinite(end):
        return 0.0
    rise = increasing(-np.log(curve))
    at = np.arange(1, len(curve) + 1) / len(curve)
    half = len(rise) // 2
    slope = (rise[-1] - rise[half]) / (at[-1] - at[half])
    passed = -math.log(end) - rise[-1]
    if passed >= 0:
        return min(1 + passed / slope, _AHEAD) if slope > 0 else _AHEAD
    if -math.log(end) < rise[0]:
        return float(at[0]) / 2  # somewhere before the first
    return float(np.interp(-math.log(end), rise, at))


def _draws(shares: np.ndarray, seed: int) -> np.ndarray:
    """Returns draws of the true shares, `[draws, batches]`, given those of repeats.

    Student's multivariate distribution with the covariance of the repeats: their batches err alike,
    because all are compared with the same branch.
    """
    repeats = shares.shape[1]
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(DRAWS, repeats)) @ (shares - shares.mean(axis=1, keepdims=True)).T
    tails = np.sqrt(random.chisquare(repeats - 1, size=(DRAWS, 1)))
    return shares.mean(axis=1) + mixed / tails / math.sqrt(repeats)


def _fit(ratios: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns B_0/B_crit that fits y best, `[draws]`, for shares `[draws, batches]`."""
    law = (1 + _INVERSES) / (1 + ratios[:, None] * _INVERSES)  # [batches, candidates]
    # Squares of the distances, without what does not depend on the candidate.
    distances = weights @ law**2 - 2 * (weights * shares) @ law
    return _INVERSES[np.argmin(distances, axis=1)]


def _batch(smallest: int, inverse: float) -> float | None:
    """Returns B_crit; None where it is 0 or infinite, by the values that are tried."""
    is_inside = _INVERSES[1] < inverse < _INVERSES[-1]
    return float(smallest / inverse) if is_inside else None

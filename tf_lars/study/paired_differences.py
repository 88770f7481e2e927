"""Differences between two kinds of trials with the same seeds: interval and significance."""

import dataclasses
import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence

MOST_EXACT_PAIRS = 16
"""Number of pairs up to which all assignments of signs are enumerated."""

_RESAMPLES = 20_000

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T95: tuple[float, ...] = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
)
_T95 += (2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064)
_T95 += (2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference over paired seeds.

    Attributes:
      pairs: Number of seeds that both have.
      mean: Mean of first minus second.
      low: Lower end of the 95 % confidence interval of the mean, by Student's t; -inf for one pair.
      high: Its upper end.
      p_value: Two-sided p-value of the permutation test that exchanges the two of a pair. With n
        pairs it is at least 2 / 2**n.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        if self.pairs == 1:
            return f"{100 * self.mean:+.1f} points, one seed"
        return (
            f"{100 * self.mean:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f}), "
            f"p = {self.p_value:.2g}"
        )


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Returns the difference of two measurements by seed; None if they share no seed."""
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    half = half_width(differences)
    return Difference(len(seeds), mean, mean - half, mean + half, p_value(differences))


def half_width(values: Sequence[float]) -> float:
    """Returns half the width of the 95 % confidence interval of a mean; inf for one value."""
    if len(values) < 2:
        return math.inf
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def t_quantile(freedom: int) -> float:
    """Returns the two-sided 95 % quantile of Student's t."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom)  # the first terms of its expansion


def p_value(differences: Sequence[float]) -> float:
    """Returns the share of assignments of signs whose mean is at least as far from 0.

    The observed one counts, and so do those that differ from it by rounding errors. Beyond
    `MOST_EXACT_PAIRS` pairs, assignments are drawn at random, with a fixed seed.
    """
    observed = abs(math.fsum(differences)) - 1e-4 * max(map(abs, differences))
    count = len(differences)
    if count <= MOST_EXACT_PAIRS:
        signs = list(itertools.product((1, -1), repeat=count))
        return sum(_at_least(differences, one, observed) for one in signs) / len(signs)
    draw = random.Random(0)
    hits = sum(
        _at_least(differences, [draw.choice((1, -1)) for _ in differences], observed)
        for _ in range(_RESAMPLES)
    )
    return (hits + 1) / (_RESAMPLES + 1)


def _at_least(differences: Sequence[float], signs: Sequence[int], observed: float) -> bool:
    return abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) >= observed

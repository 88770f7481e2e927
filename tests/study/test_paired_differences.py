"""Confidence intervals and permutation tests of paired differences."""

import math
import random

import pytest

from tf_lars.study import paired_differences
from tf_lars.study.paired_differences import paired


def test_only_seeds_of_both_are_paired():
    one = paired({0: 0.9, 1: 0.8, 5: 0.1}, {1: 0.7, 0: 0.85, 7: 1.0})
    assert one.pairs == 2
    assert one.mean == pytest.approx(0.075)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_the_interval_is_that_of_student():
    one = paired({0: 0.3, 1: 0.2, 2: 0.4}, {0: 0.2, 1: 0.2, 2: 0.2})
    # Differences 0.1, 0 and 0.2: standard error 0.1 / sqrt(3), t = 4.303.
    assert (one.low, one.high) == pytest.approx((0.1 - 0.24843, 0.1 + 0.24843), abs=1e-4)
    assert str(one) == "+10.0 points (-14.8 to +34.8), p = 0.5"
    assert str(paired({0: 0.3}, {0: 0.2})) == "+10.0 points, one seed"


def test_quantiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats", reason="comes with scikit-learn (extra `demo`)")
    for freedom in [*range(1, 40), 100, 1000]:
        expected = stats.t.ppf(0.975, freedom)
        assert paired_differences.t_quantile(freedom) == pytest.approx(expected, abs=5e-3)


def test_the_permutation_test_counts_assignments_of_signs():
    assert paired_differences.p_value([1.0, 2.0, 3.0]) == 2 / 8
    assert paired_differences.p_value([1.0] * 6) == 2 / 64
    assert paired_differences.p_value([1.0, -1.0]) == 1.0
    # |sum| >= 4 of 1, 2, 3: +++, ---, and 3 + 2 - 1 with its opposite.
    assert paired_differences.p_value([-1.0, 2.0, 3.0]) == 4 / 8
    assert paired_differences.p_value([0.0, 0.0]) == 1.0
    assert paired_differences.p_value([1e-8, 0.01]) == 1.0


def test_many_pairs_are_drawn_at_random_with_the_same_result_each_time():
    draw = random.Random(1).gauss
    noise = [draw(0, 1) for _ in range(30)]
    p = paired_differences.p_value(noise)
    assert p == paired_differences.p_value(noise)
    z = abs(math.fsum(noise)) / math.sqrt(math.fsum(x * x for x in noise))
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.05)
    assert paired_differences.p_value([x + 3 for x in noise]) < 1e-3

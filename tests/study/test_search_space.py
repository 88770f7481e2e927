"""Hyperparameters are drawn alike for every optimizer, and evenly."""

import math

import pytest

from tf_lars.study import search_space
from tf_lars.study.search_space import MOMENTUM_DISTANCE, SPACES, Point

FIXED = Point(0.0, 0.9, 5e-4)


@pytest.mark.parametrize("count", [5, 6, 8, 20])
def test_one_dimension_is_covered_without_large_gaps(count):
    for seed in range(20):
        points = sorted(u for (u,) in search_space.unit_points(count, 1, seed))
        gaps = [b - a for a, b in zip(points, [*points[1:], points[0] + 1], strict=True)]
        assert sum(gaps) == pytest.approx(1)
        assert max(gaps) < 2 / count
        assert min(gaps) > 0.4 / count


def test_cells_of_a_cube_are_filled_evenly_and_only_the_seed_moves_the_points():
    points = search_space.unit_points(64, 3, seed=1)
    assert points == search_space.unit_points(80, 3, seed=1)[:64]
    assert points != search_space.unit_points(64, 3, seed=2)
    octants = {tuple(int(2 * u) for u in point) for point in points}
    counts = [sum(tuple(int(2 * u) for u in p) == o for p in points) for o in octants]
    assert len(octants) == 8
    assert min(counts) >= 5  # eight are expected


def test_all_ranges_of_learning_rates_are_equally_wide():
    assert {round(math.log10(s.learning_rate[1] / s.learning_rate[0]), 9)
            for s in SPACES.values()} == {2.0}  # fmt: skip
    assert {round(math.log10(s.weight_decay[1] / s.weight_decay[0]), 9)
            for s in SPACES.values()} == {2.0}  # fmt: skip


def test_every_optimizer_tries_the_same_places_of_its_ranges():
    of_lars, of_sgd = (
        search_space.points(SPACES[name], FIXED, ["learning_rate"], 6, 0)
        for name in ("lars", "sgd")
    )
    for one, other in zip(of_lars, of_sgd, strict=True):
        assert one.learning_rate == pytest.approx(20 * other.learning_rate, rel=1e-3)
        assert (one.momentum, one.weight_decay) == (0.9, 5e-4)


def test_what_is_tuned_varies_within_its_range_and_the_rest_stays():
    space = SPACES["adamw"]
    tried = search_space.points(space, FIXED, ["weight_decay", "learning_rate", "momentum"], 16, 3)
    for name, (low, high) in (
        ("learning_rate", space.learning_rate),
        ("weight_decay", space.weight_decay),
    ):
        values = [getattr(point, name) for point in tried]
        assert low <= min(values) < math.sqrt(low * high) < max(values) <= high
        assert len(set(values)) == 16
    distances = [1 - point.momentum for point in tried]
    assert MOMENTUM_DISTANCE[0] - 1e-4 < min(distances) < max(distances) < 0.2001
    assert {p.momentum for p in search_space.points(space, FIXED, ["learning_rate"], 3, 0)} == {0.9}


def test_a_range_can_be_replaced():
    spaces = search_space.spaces_with(["lars:2.5:40"])
    assert spaces["lars"].learning_rate == (2.5, 40.0)
    assert spaces["sgd"] == SPACES["sgd"]

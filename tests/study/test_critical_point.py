"""The critical batch of a noisy quadratic, whose losses are known in closed form."""

import numpy as np
import pytest

from tests.helpers import noisy_quadratic
from tests.helpers.noisy_quadratic import BATCHES, EXAMPLES, SMALLEST
from tf_lars.study import critical_point

TOLERANCE = 0.1


def _expected_loss(batch):
    return noisy_quadratic.at_end(noisy_quadratic.expected_losses(batch))


def _truth():
    """Returns the batch at which the expected loss passes the tolerance, by its definition."""
    batches = [b for b in range(SMALLEST, BATCHES[-1] + 1) if EXAMPLES % b == 0]
    fine = np.array([_expected_loss(b) for b in batches]) / _expected_loss(SMALLEST) - 1
    first = int(np.flatnonzero(fine > TOLERANCE)[0])
    x = np.log2(batches)
    share = (TOLERANCE - fine[first - 1]) / (fine[first] - fine[first - 1])
    return 2 ** (x[first - 1] + share * (x[first] - x[first - 1]))


@pytest.fixture(scope="module")
def measured():
    """Measured points of ten seeds, each from five repeats."""
    points = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        rows = [noisy_quadratic.simulated_losses(random) for _ in range(5)]
        losses = {b: [noisy_quadratic.at_end(row[b]) for row in rows] for b in BATCHES}
        points.append(critical_point.measure(losses, TOLERANCE))
    return points


def test_it_is_within_fifteen_percent_of_the_closed_form(measured):
    for point in measured:
        assert point.critical_batch == pytest.approx(_truth(), rel=0.15)


def test_the_interval_covers_the_closed_form_in_nine_of_ten_seeds(measured):
    covered = [point.low <= _truth() <= point.high for point in measured]
    assert sum(covered) >= 9
    assert np.median([point.high / point.low for point in measured]) < 1.3


def test_a_batch_that_diverges_is_above_the_critical_batch():
    losses = {64: [1.0, 1.1], 128: [1.001, 1.1], 256: [np.inf, 1.2], 512: [np.inf, np.inf]}
    point = critical_point.measure(losses, 0.02)
    assert 128 < point.critical_batch < 256


def test_nothing_is_claimed_beyond_the_batches_that_were_tried():
    flat = {64: [1.0, 1.02, 0.98], 128: [1.001, 1.02, 0.98], 256: [0.999, 1.021, 0.981]}
    point = critical_point.measure(flat, 0.05)
    assert (point.critical_batch, point.high) == (None, None)
    noisy = {64: [1.0, 3.0, 0.2], 128: [2.0, 0.4, 0.9], 256: [0.5, 2.5, 1.3]}
    point = critical_point.measure(noisy, 0.05)
    assert point.low is None or point.high is None
    single = critical_point.measure({64: [1.0], 128: [1.01], 256: [1.2]}, 0.05)
    assert 128 < single.critical_batch < 256
    assert (single.low, single.high) == (None, None)


def test_losses_that_fall_with_the_batch_are_levelled():
    point = critical_point.measure({64: [1.0], 128: [1.06], 256: [0.98], 512: [1.2]}, 0.05)
    assert 256 < point.critical_batch < 512

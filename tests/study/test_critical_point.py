"""The critical batch of a noisy quadratic, whose losses are known in closed form."""

import numpy as np
import pytest

from tf_lars.study import critical_point

# Three scales, in 64 directions each.
CURVATURES = np.repeat([1.0, 0.1, 0.01], 64)
NOISES = np.repeat([4.0, 1.0, 0.3], 64)
START = np.repeat([1.0, 2.0, 3.0], 64)
# With many divisors, so that the loss is known in closed form at many batches.
SMALLEST, RATE, EXAMPLES, TOLERANCE = 4, 0.02, 15_360, 0.1
BATCHES = [SMALLEST * 2**i for i in range(8)]


def _moments(batch, steps):
    """Yields E[theta^2] of each direction after every step of SGD at the linearly scaled rate."""
    rate = RATE * batch / SMALLEST
    moments = START**2
    for _ in range(steps):
        moments = (1 - rate * CURVATURES) ** 2 * moments + rate**2 * NOISES**2 / batch
        yield moments


def _expected_loss(batch):
    """Returns the loss expected over the last quarter of the examples."""
    steps = EXAMPLES // batch
    losses = [0.5 * CURVATURES @ moments for moments in _moments(batch, steps)]
    return float(np.mean(losses[-max(1, steps // 4) :]))


def _simulated_losses(random):
    """Returns the loss of one repeat over the last quarter of its examples, by batch.

    All batches take the same examples in the same order.
    """
    noises = random.normal(size=(EXAMPLES, NOISES.size)) * NOISES
    found = {}
    for batch in BATCHES:
        rate, steps = RATE * batch / SMALLEST, EXAMPLES // batch
        theta, losses = START.copy(), []
        for noise in noises.reshape(steps, batch, -1).mean(axis=1):
            theta = theta - rate * (CURVATURES * theta + noise)
            losses.append(0.5 * CURVATURES @ theta**2)
        found[batch] = float(np.mean(losses[-max(1, steps // 4) :]))
    return found


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
        rows = [_simulated_losses(random) for _ in range(5)]
        losses = {batch: [row[batch] for row in rows] for batch in BATCHES}
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

"""The gradient noise scale against its definition, on gradients whose distribution is known."""

import numpy as np
import pytest

from tf_lars.tracking.noise_scale import DECAY, NoiseScale, adascale_gain, gradient_squared, trace
from tf_lars.tracking.observation import PartNorms

PARTS, BATCH = 8, 256


def _gaussian_norms(rng, mean, deviation):
    """Returns |g|^2 and mean|g_i|^2 of the gradients of parts, of Gaussian examples."""
    noise = rng.normal(size=(PARTS, mean.size)) * deviation / np.sqrt(BATCH / PARTS)
    gradients = mean + noise
    whole = gradients.mean(axis=0)
    return float(whole @ whole), float((gradients**2).sum(axis=1).mean())


def _calls(steps, lengths=(1,), seed=0):
    """Yields the norms of the calls of a loop, and the truth: tr(S) and |G|^2."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=1000) * 0.01
    deviation = rng.uniform(0.05, 0.5, size=1000)
    truth = float((deviation**2).sum()), float(mean @ mean)
    calls, taken = [], 0
    while taken < steps:
        length = lengths[len(calls) % len(lengths)]
        sums = np.zeros(2)
        for _ in range(length):
            sums = DECAY * sums + (1 - DECAY) * np.array(_gaussian_norms(rng, mean, deviation))
        calls.append(PartNorms(length, PARTS, *sums.tolist()))
        taken += length
    return calls, truth


def test_it_is_within_ten_percent_of_the_closed_form_after_a_thousand_steps():
    errors = []
    for seed in range(10):
        calls, (true_trace, true_squared) = _calls(1000, seed=seed)
        average = NoiseScale()
        for call in calls:
            average.add(call)
        estimate = average.estimate(BATCH, PARTS)
        assert estimate.trace == pytest.approx(true_trace, rel=0.02)
        errors.append(estimate.scale / (true_trace / true_squared) - 1)
    assert np.abs(np.median(errors)) < 0.1
    assert np.abs(errors).max() < 0.5


def test_it_is_within_ten_percent_at_once_where_the_signal_is_strong():
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=1000) * 0.1, np.full(1000, 0.5)
    average = NoiseScale()
    for _ in range(1000):
        norms = _gaussian_norms(rng, mean, deviation)
        average.add(PartNorms(1, PARTS, *((1 - DECAY) * value for value in norms)))
    truth = float((deviation**2).sum() / (mean @ mean))
    assert average.estimate(BATCH, PARTS).scale == pytest.approx(truth, rel=0.1)


def test_the_length_of_the_calls_does_not_matter():
    one, several = NoiseScale(), NoiseScale()
    for call in _calls(600)[0]:
        one.add(call)
    for call in _calls(600, lengths=(7, 1, 12))[0]:
        several.add(call)
    assert several.whole == pytest.approx(one.whole, rel=1e-9)
    assert several.mean_of_parts == pytest.approx(one.mean_of_parts, rel=1e-9)
    assert several.weight == pytest.approx(one.weight)


def test_equal_gradients_of_all_parts_have_no_noise():
    average = NoiseScale()
    for _ in range(20):
        average.add(PartNorms(1, 4, 0.01 * 9.0, 0.01 * 9.0))
    estimate = average.estimate(64, 4)
    assert estimate.trace == pytest.approx(0)
    assert estimate.scale == pytest.approx(0)
    assert estimate.adascale_gain == pytest.approx(1)


def test_pure_noise_has_no_noise_scale():
    rng = np.random.default_rng(0)
    average = NoiseScale()
    for _ in range(500):
        norms = _gaussian_norms(rng, np.zeros(1000), np.ones(1000))
        average.add(PartNorms(1, PARTS, *((1 - DECAY) * value for value in norms)))
    assert average.estimate(BATCH, PARTS).scale is None


def test_nothing_is_said_before_the_noise_of_the_estimate_is_known():
    average = NoiseScale()
    assert average.estimate(BATCH, PARTS) is None
    average.add(PartNorms(1, PARTS, 0.02, 0.05))
    assert average.estimate(BATCH, PARTS).scale is None


def test_values_that_are_not_finite_are_left_out():
    average = NoiseScale()
    average.add(PartNorms(1, PARTS, 0.02, 0.05))
    before = dict(vars(average))
    average.add(PartNorms(1, PARTS, float("nan"), 1.0))
    average.add(PartNorms(0, PARTS, 0.0, 0.0))
    assert vars(average) == before


@pytest.mark.parametrize("parts", [2, 8, 100])
def test_adascales_gain_is_1_without_noise_and_n_without_signal(parts):
    assert adascale_gain(3.0, 3.0, parts) == pytest.approx(1)
    assert adascale_gain(1.0, float(parts), parts) == pytest.approx(parts)
    assert 1 < adascale_gain(1.0, (1 + parts) / 2, parts) < parts
    assert adascale_gain(0.0, 0.0, parts) == 1


def test_the_equations_are_those_of_the_paper():
    whole, mean, batch, parts = 2.0, 5.0, 32, 4
    b = batch / parts
    assert gradient_squared(whole, mean, parts) == pytest.approx(
        (batch * whole - b * mean) / (batch - b)
    )
    assert trace(whole, mean, batch, parts) == pytest.approx((mean - whole) / (1 / b - 1 / batch))


def test_the_averages_follow_the_batch():
    # Expected norms: |g|^2 = |G|^2 + tr(S) / B, and mean|g_i|^2 = |G|^2 + tr(S) N / B.
    squared, traced = 9.0, 640.0
    average = NoiseScale()
    for batch, parts in ((64, 2), (128, 4), (256, 8), (256, 4)):
        whole, mean = squared + traced / batch, squared + traced * parts / batch
        for _ in range(3):
            average.follow(batch, parts)
            average.add(PartNorms(1, parts, (1 - DECAY) * whole, (1 - DECAY) * mean))
            estimate = average.estimate(batch, parts)
            assert estimate.trace == pytest.approx(traced)
            assert estimate.gradient_squared == pytest.approx(squared)

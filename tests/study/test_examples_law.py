"""B_crit of E(B) = E_min (1 + B/B_crit), on curves that follow it and on a noisy quadratic."""

import numpy as np
import pytest

from tests.helpers import noisy_quadratic
from tests.helpers.noisy_quadratic import BATCHES
from tf_lars.study import examples_law


def _branch(batch, critical, blocks=8):
    """Returns losses of equal parts of a branch whose progress per example is that of the law."""
    at = (np.arange(blocks) + 0.5) / blocks
    return (2 * np.exp(-3 * at / (1 + batch / critical))).tolist()


@pytest.mark.parametrize("critical", [40, 300, 2000])
def test_it_is_found_on_curves_that_follow_the_law(critical):
    fitted = examples_law.fit({b: [_branch(b, critical)] * 3 for b in (16, 32, 64, 128, 256)})
    assert fitted.critical_batch == pytest.approx(critical, rel=0.1)
    assert fitted.low <= fitted.critical_batch <= fitted.high


def _exact():
    """Returns B_crit of the expected losses of the quadratic."""
    expected = {b: [noisy_quadratic.blocks(noisy_quadratic.expected_losses(b))] for b in BATCHES}
    return examples_law.fit(expected).critical_batch


def test_a_noisy_quadratic_gives_that_of_its_expected_losses():
    exact, found = _exact(), []
    for seed in range(10):
        random = np.random.default_rng(seed)
        rows = [noisy_quadratic.simulated_losses(random) for _ in range(5)]
        losses = {b: [noisy_quadratic.blocks(row[b]) for row in rows] for b in BATCHES}
        found.append(examples_law.fit(losses))
    for one in found:
        assert one.critical_batch == pytest.approx(exact, rel=0.15)
    # The interval holds it with two chances in three.
    assert sum(one.low <= exact <= one.high for one in found) >= 5


def test_where_no_batch_falls_behind_only_a_bound_is_claimed():
    same = _branch(16, 1e9)
    fitted = examples_law.fit({16: [same] * 3, 32: [same] * 3, 64: [same] * 3})
    assert (fitted.critical_batch, fitted.low, fitted.high) == (None, 64, None)


def test_where_all_larger_batches_stand_still_it_is_at_most_the_smallest():
    flat = [2.0] * 8
    fitted = examples_law.fit({16: [_branch(16, 100)] * 2, 32: [flat] * 2, 64: [[np.inf] * 8] * 2})
    assert (fitted.critical_batch, fitted.low, fitted.high) == (None, None, 16)


def test_without_progress_there_is_no_claim():
    random = np.random.default_rng(0)
    noise = {b: (1 + 0.1 * random.normal(size=(3, 8))).tolist() for b in (16, 32, 64)}
    fitted = examples_law.fit(noise)
    assert fitted.low is None or fitted.high is None


def test_a_single_repeat_has_no_interval():
    fitted = examples_law.fit({b: [_branch(b, 100)] for b in (16, 32, 64)})
    assert fitted.critical_batch == pytest.approx(100, rel=0.1)
    assert (fitted.low, fitted.high) == (None, None)

"""Epochs against batch: exact at the reference points, marked as extrapolated beyond them."""

import numpy as np
import pytest

from tf_lars.errors import InputError
from tf_lars.planner import epochs
from tf_lars.planner.epochs import epochs_to_target


def test_the_reference_points_are_met_exactly():
    assert len(epochs.reference_points()) == 10
    for batch, expected in epochs.reference_points():
        value, extrapolated = epochs_to_target("resnet50", batch)
        assert value == pytest.approx(expected, rel=1e-12)
        assert not extrapolated


def test_a_larger_batch_never_needs_fewer_epochs():
    values = [epochs_to_target("resnet50", b)[0] for b in np.geomspace(64, 500_000, 200)]
    assert (np.diff(values) >= -1e-9).all()


def test_the_critical_batch_is_that_of_the_line_through_the_points():
    line = epochs.critical_batch()
    # design: E0 = 34.5, Bc = 46,300, rms 1.9 epochs
    assert line.epochs == pytest.approx(34.5, abs=0.2)
    assert line.batch_size == pytest.approx(46_300, rel=0.02)
    misses = [line(batch) - expected for batch, expected in epochs.reference_points()]
    assert np.sqrt(np.mean(np.square(misses))) == pytest.approx(1.9, abs=0.05)
    assert line(line.batch_size) == pytest.approx(2 * line.epochs)


def test_beyond_the_points_the_line_goes_on_and_says_so():
    value, extrapolated = epochs_to_target("resnet50", 2 * 67840)
    line = epochs.critical_batch()
    assert extrapolated
    assert value == pytest.approx(85.857 * line(2 * 67840) / line(67840))
    assert epochs_to_target("resnet50", 256) == (35.0, False)


def test_alexnet_takes_the_epochs_of_the_paper():
    assert epochs_to_target("alexnet_bn", 32768) == (100.0, False)


@pytest.mark.parametrize(("model", "batch"), [("resnet18", 256), ("alexnet", 65536)])
def test_what_nobody_has_published_is_refused(model, batch):
    with pytest.raises(
        InputError, match=r"published for resnet50, and for alexnet.*Give the epochs"
    ):
        epochs_to_target(model, batch)

"""Ramps of the batch that follow a critical batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_lars.errors import InputError
from tf_lars.planner.critical_batch_file import CriticalBatchPoint
from tf_lars.planner.ramp_plan import follow


def _points(*pairs):
    return [
        CriticalBatchPoint(step=i, epoch=epoch, examples=float(i), efficient=batch)
        for i, (epoch, batch) in enumerate(pairs)
    ]


def test_the_batch_doubles_in_the_epoch_in_which_the_critical_batch_has_doubled():
    points = _points((0.0, 256.0), (8.0, 4096.0))  # doubles every two epochs
    assert str(follow(points, 256, 65_536, 20)) == "0:256,2:512,4:1024,6:2048,8:4096"
    assert str(follow(points, 256, 1024, 20)) == "0:256,2:512,4:1024"
    assert str(follow(points, 256, 65_536, 5)) == "0:256,2:512,4:1024"


def test_a_first_batch_above_the_critical_batch_stays():
    assert str(follow(_points((1.0, 100.0), (2.0, 120.0)), 256, 4096, 10)) == "0:256"


def test_a_critical_batch_that_is_large_from_the_start_gives_one_batch():
    assert str(follow(_points((3.0, 5000.0)), 256, 65_536, 10)) == "0:4096"


def test_a_lower_bound_is_used_and_points_without_a_claim_are_left_out():
    bound = CriticalBatchPoint(step=5, epoch=4.0, examples=5.0, low=1024.0)
    nothing = CriticalBatchPoint(step=6, epoch=5.0, examples=6.0, noise_scale=10.0)
    assert str(follow([*_points((0.0, 256.0)), bound, nothing], 256, 65_536, 10)) == (
        "0:256,2:512,4:1024"
    )
    with pytest.raises(InputError, match="A ramp needs a batch within"):
        follow([nothing], 256, 65_536, 10)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(1, 1e6)), min_size=1, max_size=6),
    st.integers(1, 2000),
    st.integers(1, 60),
)
def test_batches_rise_by_powers_of_two_and_stay_in_their_bounds(pairs, first, epochs):
    points = _points(*sorted({epoch: (float(epoch), b) for epoch, b in pairs}.values()))
    schedule = follow(points, first, 16 * first, epochs)
    sizes = schedule.sizes
    assert list(sizes) == sorted(set(sizes))
    assert all(size % first == 0 and (size // first).bit_count() == 1 for size in sizes)
    assert sizes[-1] <= 16 * first
    assert sizes[-1] <= max(first, max(batch for _, batch in pairs) * (1 + 1e-6)) or len(sizes) == 1

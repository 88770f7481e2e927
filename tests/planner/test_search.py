"""Deadlines, neighbours, and the point up to which doubling pays."""

import functools

import pytest

from tf_lars import planner
from tf_lars.errors import InputError
from tf_lars.planner import search

AT = functools.partial(planner.predict, accelerator="A100-SXM")
BATCHES = search.batches(planner.device("A100-SXM"), 67840)


def test_the_batches_that_are_tried_fit_into_the_memory_and_the_limit():
    assert BATCHES(8) == [8 * 2**i for i in range(9)]  # up to 256: the next, 512, was never seen
    assert max(BATCHES(4096)) == 65536
    assert BATCHES(100_000) == []


@pytest.mark.parametrize("minutes", [1.0, 3.0, 20.0, 200.0])
def test_a_deadline_is_met_with_the_fewest_devices(minutes):
    plan = search.for_deadline(AT, minutes, BATCHES)
    assert plan.minutes <= minutes
    if plan.devices > 1:
        assert search.quickest(AT, plan.devices - 1, BATCHES).minutes > minutes


def test_a_deadline_that_nothing_meets_names_the_quickest_plan():
    with pytest.raises(
        InputError, match=r"No number of A100-SXM meets 0.001 minutes: the quickest"
    ):
        search.for_deadline(AT, 0.001, BATCHES)
    with pytest.raises(InputError, match="deadline must be above 0"):
        search.for_deadline(AT, 0, BATCHES)


def test_neighbours_keep_the_batch_or_the_images_per_device():
    plan = AT(devices=64, global_batch_size=4096)
    same_batch, same_images = search.neighbours(AT, plan)
    assert (
        [p.devices for p in same_batch]
        == [p.devices for p in same_images]
        == [16, 32, 64, 128, 256]
    )
    assert {p.global_batch_size for p in same_batch} == {4096}
    assert {p.global_batch_size / p.devices for p in same_images} == {64}
    assert plan in same_batch
    assert plan in same_images
    few = AT(devices=2, global_batch_size=4)
    same_batch, same_images = search.neighbours(AT, few)
    assert [p.devices for p in same_batch] == [1, 2, 4]
    assert [p.devices for p in same_images] == [1, 2, 4, 8]


def test_doubling_pays_up_to_the_plan_and_not_from_the_next():
    plan = search.paying_plan(AT, 64)

    def speedup(p):
        one, two = (AT(devices=q, global_batch_size=64 * q) for q in (p, 2 * p))
        return one.minutes / two.minutes

    assert speedup(plan.devices) >= 1.5 > speedup(plan.devices + 1)
    # With a step that does not grow, 2 E(B) / E(2B) = 1.5 at half the critical batch.
    assert plan.global_batch_size == pytest.approx(planner.critical_batch().batch_size / 2, rel=0.3)


def test_at_a_fixed_batch_overhead_ends_it():
    most = search.paying_devices(AT, 16384)
    one, two = (AT(devices=q, global_batch_size=16384).minutes for q in (most, 2 * most))
    assert one / two >= 1.5
    one, two = (AT(devices=q, global_batch_size=16384).minutes for q in (most + 1, 2 * most + 2))
    assert one / two < 1.5
    assert search.paying_devices(AT, 1) == 0


def test_where_no_batch_is_allowed_there_is_no_plan():
    with pytest.raises(InputError, match="None of the batches to try"):
        search.quickest(AT, 70_000, BATCHES)

"""The order of training and evaluation that `tf_lars.data.order` documents."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lars.data import order
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError


def _examples(dataset, column=1):
    parts = [chunk[column].numpy() for chunk in dataset]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _training(worker=0, num_workers=1, first_step=0, **arguments):
    context = tf.distribute.InputContext(num_workers, worker, num_workers)
    return _examples(order.training_positions(context, first_step=first_step, **arguments))


def test_an_epoch_is_a_permutation_and_the_next_one_is_another():
    stream = _training(num_examples=100, global_batch_size=20, seed=3, last_step=10)
    first, second = stream[:100], stream[100:]
    assert sorted(first) == sorted(second) == list(range(100))
    assert (first != second).any()
    assert (first != np.arange(100)).any()


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_a_global_batch_holds_the_same_examples_on_any_number_of_workers(num_workers):
    arguments = dict(num_examples=101, global_batch_size=24, seed=0, last_step=9)
    alone = _training(**arguments).reshape(9, 24)
    shares = [_training(worker=w, num_workers=num_workers, **arguments) for w in range(num_workers)]
    together = np.concatenate([share.reshape(9, -1) for share in shares], axis=1)
    np.testing.assert_array_equal(together, alone)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(0, 2**31))
def test_a_stream_begun_later_is_the_rest_of_the_stream(first_step, num_workers, seed):
    arguments = dict(num_examples=37, global_batch_size=12, seed=seed, last_step=31)
    whole = _training(num_workers=num_workers, **arguments)
    rest = _training(num_workers=num_workers, first_step=first_step, **arguments)
    np.testing.assert_array_equal(rest, whole[first_step * 12 // num_workers :])


@pytest.mark.parametrize("num_examples", [100_000, 1_281_167])
def test_successive_epochs_of_a_large_set_are_uncorrelated(num_examples):
    places = tf.range(num_examples, dtype=tf.int64)
    epochs = [
        order.permute(places, 0, tf.fill([num_examples], tf.constant(e, tf.int64)), num_examples)
        for e in range(3)
    ]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        # Four standard deviations of the correlation of two random permutations.
        assert abs(np.corrcoef(epochs[one], epochs[other])[0, 1]) < 4 / np.sqrt(num_examples)
    assert abs(np.corrcoef(epochs[0], places)[0, 1]) < 4 / np.sqrt(num_examples)


@pytest.mark.parametrize("num_examples", [1, 7, 360, 3925])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5])
def test_evaluation_counts_every_example_once(num_examples, num_workers):
    batch = 4 * num_workers
    seen, chunks = [], []
    for worker in range(num_workers):
        dataset = order.evaluation_positions(
            tf.distribute.InputContext(num_workers, worker, num_workers),
            num_examples=num_examples,
            global_batch_size=batch,
        )
        index, weight = _examples(dataset, 0), _examples(dataset, 1)
        seen += list(index[weight == 1])
        chunks.append(len(index))
        assert set(weight) <= {0, 1}
    assert sorted(seen) == list(range(num_examples))
    assert set(chunks) == {order.evaluation_steps(num_examples, batch) * 4}


def test_epochs_end_with_the_step_that_uses_their_last_example():
    assert order.epoch_end_steps(100, 30, 3) == [4, 7, 10]
    assert order.epoch_end_steps(1437, 512, 30)[-1] == 85
    assert order.epoch_end_steps(10, 40, 4) == [1, 1, 1, 1]
    assert order.epoch_end_steps(1_281_167, 32_768, 90)[-1] == 3519


@pytest.mark.parametrize("batch", [0, -8, 10])
def test_a_batch_that_does_not_divide_is_refused(batch):
    with pytest.raises(InputError, match=f"global_batch_size={batch} on 4 replicas"):
        order.per_replica_batch_size(batch, 4)


def test_no_pipeline_waits_for_the_tuner_when_it_ends():
    context = tf.distribute.InputContext()
    training = order.training_positions(
        context, num_examples=9, global_batch_size=3, seed=0, first_step=0, last_step=3
    )
    evaluation = order.evaluation_positions(context, num_examples=9, global_batch_size=3)
    for dataset in (training, evaluation):
        assert dataset.map(lambda a, b: a).unbatch().batch(3).options().autotune.enabled is False


@st.composite
def _ramps(draw):
    """Returns a number of examples and a schedule of batches that divide among 1 to 3 workers."""
    num_examples = draw(st.integers(1, 60))
    epochs = draw(st.lists(st.integers(1, 8), max_size=3, unique=True))
    sizes = draw(st.lists(st.integers(1, 8), min_size=len(epochs) + 1, max_size=len(epochs) + 1))
    starts = zip([0, *sorted(epochs)], (6 * size for size in sizes), strict=True)
    return num_examples, BatchSizeSchedule(tuple(starts))


@settings(max_examples=200, deadline=None)
@given(_ramps(), st.integers(1, 10))
def test_the_steps_of_a_ramp_use_every_position_once_and_change_where_an_epoch_begins(ramp, epochs):
    num_examples, schedule = ramp
    steps = order.Steps.of(num_examples, schedule)
    ends = steps.epoch_ends(epochs)
    position = 0
    for step in range(ends[-1] + 1):
        assert steps.position(step) == position
        # The batch is that of the epoch in which the step before has ended, and never one that
        # begins later: an epoch of the schedule begins with its first whole batch.
        begun = sum(end <= step for end in steps.epoch_ends(9))
        assert steps.batch_size(step) == schedule.at(begun)
        position += steps.batch_size(step)
    for epoch, end in enumerate(ends, start=1):
        assert steps.position(end) >= epoch * num_examples > steps.position(end - 1)
    assert set(steps.changes) <= set(steps.epoch_ends(9))


@settings(max_examples=40, deadline=None)
@given(_ramps(), st.integers(1, 3), st.integers(0, 20))
def test_a_ramp_reads_the_stream_of_a_fixed_batch_from_any_step_on_any_number_of_workers(
    ramp, num_workers, first_step
):
    num_examples, schedule = ramp
    steps = order.Steps.of(num_examples, schedule)
    last_step = first_step + 6
    edges = [first_step, *(c for c in steps.changes if first_step < c < last_step), last_step]
    read = []
    for start, end in itertools.pairwise(edges):
        arguments = dict(num_examples=num_examples, global_batch_size=schedule, seed=1)
        shares = [
            _training(w, num_workers, start, last_step=end, **arguments) for w in range(num_workers)
        ]
        read.append(np.concatenate([s.reshape(end - start, -1) for s in shares], axis=1).ravel())
    begin, stop = steps.position(first_step), steps.position(last_step)
    one_by_one = _training(
        num_examples=num_examples, global_batch_size=1, seed=1, first_step=begin, last_step=stop
    )
    np.testing.assert_array_equal(np.concatenate(read), one_by_one)


@settings(max_examples=100, deadline=None)
@given(_ramps(), st.integers(0, 40), st.integers(0, 40))
def test_the_steps_after_a_step_are_those_that_follow(ramp, first, ahead):
    steps = order.Steps.of(*ramp)
    rest = steps.after(first)
    assert rest.phases[0][:2] == (0, 0)
    assert rest.batch_size(ahead) == steps.batch_size(first + ahead)
    assert rest.position(ahead) == steps.position(first + ahead) - steps.position(first)


def test_phases_of_a_ramp_continue_the_stream():
    steps = order.Steps.of(1437, BatchSizeSchedule.parse("0:256,4:512,8:1024"))
    assert steps.phases == ((0, 0, 256), (23, 5888, 512), (34, 11520, 1024))
    assert steps.epoch_ends(9) == [6, 12, 17, 23, 26, 29, 32, 34, 36]
    assert steps.epoch(23) == 5888 / 1437
    # A batch that holds more than the epochs of a phase leaves it out.
    steps = order.Steps.of(10, BatchSizeSchedule.parse("0:40,1:20,3:30"))
    assert steps.phases == ((0, 0, 40), (1, 40, 30))


def test_micro_batches_of_a_ramp_are_the_share_of_the_smallest_batch_and_divide_all():
    assert order.common_micro_batch(None, [64]) is None
    assert order.common_micro_batch(None, [128, 64, 256]) == 64
    assert order.common_micro_batch(32, [128, 64, 256]) == 32
    assert order.common_micro_batch("auto", [128, 64]) == "auto"
    with pytest.raises(InputError, match=r"96 examples .* and 64 in the smallest .* such as 32"):
        order.common_micro_batch(None, [64, 96])
    with pytest.raises(InputError, match=r"divide the 96 examples .* Received: 64"):
        order.common_micro_batch(64, [64, 96])

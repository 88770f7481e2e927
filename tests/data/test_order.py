"""The order of training and evaluation that `tf_lars.data.order` documents."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lars.data import order
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

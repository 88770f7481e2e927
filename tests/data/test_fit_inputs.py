"""What Keras's `fit` takes, as parts of workers and replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.data.fit_inputs import choose
from tf_lars.errors import InputError

N, BATCH, EPOCHS = 21, 12, 3
STEPS = 2
X = np.arange(N, dtype="float32")[:, None]
Y = np.arange(N) % 3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


def _pairs():
    return tf.data.Dataset.from_tensor_slices((X, Y))


SOURCES = {
    "arrays": lambda: choose.training(X, Y, batch_size=BATCH),
    "arrays in stored order": lambda: choose.training(X, Y, batch_size=BATCH, shuffle=False),
    "dataset": lambda: choose.training(_pairs().batch(BATCH)),
    "shuffled dataset": lambda: choose.training(_pairs().shuffle(N, seed=1).batch(BATCH)),
    "dataset of unknown length": lambda: choose.training(
        _pairs().filter(lambda *_: True).batch(BATCH)
    ),
    "PyDataset": lambda: choose.training(Batches(), shuffle=False),
    "generator": lambda: choose.training(
        (Batches()[i % STEPS] for i in range(STEPS * EPOCHS + 9)), steps=STEPS
    ),
}


def _seen(source, workers, devices):
    """Returns the examples that count, by epoch, from all replicas of all workers."""
    epochs = [[] for _ in range(EPOCHS)]
    for worker in range(workers):
        data = source()  # each worker has its own
        context = tf.distribute.InputContext(workers, worker, workers * devices)
        batches = data.dataset(context, 0, STEPS * EPOCHS)
        share = BATCH // (workers * devices)
        for number, batch in enumerate(batches.take(STEPS * EPOCHS * devices)):
            (x, y), real, fill = batch
            assert x.shape == (share, 1)
            np.testing.assert_array_equal(y, x[:, 0] % 3)
            step = number // devices
            expected = BATCH if step % STEPS == 0 else N - BATCH
            np.testing.assert_allclose(fill, expected / BATCH)
            epochs[step // STEPS] += x[:, 0].numpy()[real.numpy() == 1].tolist()
        assert number == STEPS * EPOCHS * devices - 1
    return epochs


@pytest.mark.parametrize(("workers", "devices"), [(1, 1), (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("source", SOURCES)
def test_all_workers_together_see_each_example_once_per_epoch(source, workers, devices):
    for epoch in _seen(SOURCES[source], workers, devices):
        assert sorted(epoch) == list(range(N))


def test_epochs_are_shuffled_differently_and_alike_on_any_number_of_workers():
    alone, together = (_seen(SOURCES["arrays"], workers, 1) for workers in (1, 2))
    assert len({tuple(epoch) for epoch in alone}) == EPOCHS
    for one, other in zip(alone, together, strict=True):
        # The first worker has half of each step, and then the second.
        first, rest = other[: BATCH // 2], other[BATCH // 2 :]
        assert first == one[: BATCH // 2]
        assert set(one[:BATCH]) <= {*first, *rest}


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "generator"])
def test_any_step_can_be_the_first(source):
    context = tf.distribute.InputContext()
    whole = list(SOURCES[source]().dataset(context, 0, 6).take(6))
    rest = list(SOURCES[source]().dataset(context, 3, 6).take(3))
    for one, other in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(one.element[0], other.element[0])


def test_structures_of_arrays_keep_their_form_and_the_types_of_keras():
    data = choose.training(
        {"a": X.astype("float64"), "b": [Y, tf.constant(X)]}, (Y, Y), batch_size=4
    )
    x, y = next(iter(data.dataset(tf.distribute.InputContext(), 0, 1))).element
    assert (x["a"].dtype, x["b"][0].dtype, x["b"][1].shape) == (tf.float32, Y.dtype, (4, 1))
    assert len(y) == 2


def test_classes_get_their_weights():
    for targets in (Y, Y[:, None], keras.utils.to_categorical(Y)):
        data = choose.training(X, targets, batch_size=N, class_weight={1: 5.0}, shuffle=False)
        weight = next(iter(data.dataset(tf.distribute.InputContext(), 0, 1))).element[2]
        np.testing.assert_array_equal(weight, np.where(Y == 1, 5.0, 1.0))


def test_text_has_a_fingerprint_of_its_content():
    words = [np.array([f"word {i}" for i in range(5)], dtype) for dtype in (object, object)]
    first, second = (choose.training(one, Y[:5]).fingerprint() for one in words)
    assert first == second
    assert first != choose.training(words[0][::-1].copy(), Y[:5]).fingerprint()


def test_a_generator_may_validate_beside_arrays_with_a_batch_size():
    data = choose.validation((Batches()[i] for i in range(2)), batch_size=4, steps=2)
    assert (data.steps, data.global_batch_size) == (2, BATCH)


def _endless():
    while True:
        yield X[:BATCH], Y[:BATCH]


REFUSED = {
    "lengths of arrays of this package": (lambda: ArrayTrainingInput(X, Y[:-1], 4), "y of 20"),
    "lengths in evaluation": (lambda: ArrayEvaluationInput(X[:-1], Y, 4), "x of 20"),
    "lengths": (lambda: choose.training(X, Y[:-1]), r"x of 21, y of 20"),
    "no arrays": (lambda: choose.training([1, 2], Y), r"Data must be arrays.*Received: 1"),
    "nothing": (lambda: choose.training(None), "no x"),
    "empty": (lambda: choose.training(X[:0], Y[:0]), "length 0"),
    "weights alone": (lambda: choose.training(X, None, Y), "sample_weight without y"),
    "batch": (lambda: choose.training(X, Y, batch_size=0), "`batch_size` must be at least 1"),
    "y beside a dataset": (lambda: choose.training(_pairs().batch(4), Y), "y must be left out"),
    "batch beside one": (
        lambda: choose.training(_pairs().batch(4), batch_size=4),
        "batch_size must be left out with",
    ),
    "no batches": (lambda: choose.training(tf.data.Dataset.range(5)), "Batch it"),
    "empty dataset": (lambda: choose.training(_pairs().take(0).batch(4)), "an empty one"),
    "endless": (lambda: choose.training(_pairs().batch(4).repeat()), "needs steps_per_epoch"),
    "generator": (lambda: choose.training(_endless()), "needs steps_per_epoch"),
    "split": (lambda: choose.split(X, Y, None, 1.5), "above 0 and below 1"),
    "split of a dataset": (lambda: choose.split(_pairs(), None, None, 0.5), "needs arrays"),
    "classes of two outputs": (
        lambda: choose.training(X, (Y, Y), class_weight={0: 1.0}).dataset(
            tf.distribute.InputContext(), 0, 1
        ),
        "one output",
    ),
    "names of classes": (
        lambda: choose.training(X, Y, class_weight={"cat": 1.0}).dataset(
            tf.distribute.InputContext(), 0, 1
        ),
        "from classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        call()


def test_a_later_batch_of_more_examples_is_named():
    batches = (tf.data.Dataset.range(n).map(lambda i: (i, i)).batch(n) for n in (4, 5))
    first, second = batches
    data = choose.training(first.concatenate(second))
    with pytest.raises(tf.errors.InvalidArgumentError, match="InputError: A batch must have"):
        list(data.dataset(tf.distribute.InputContext(), 0, 2).take(2))


def test_a_generator_that_ends_early_is_named():
    data = choose.training((Batches()[i] for i in range(2)), steps=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="InputError: A generator must"):
        list(data.dataset(tf.distribute.InputContext(), 0, 3).take(3))

"""Runs that diverge: when they end, and which layer they name."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tests.helpers.training_cases import BATCH
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.defaults import MAX_SKIPPED_STEPS
from tf_lars.errors import DivergedError

GROUP = "divergence"
ALONE = tf.distribute.get_strategy()


def _by_hand(results, replicas):
    """Returns the first layer that is not finite, from the weights with which training ended."""
    model = training_cases.trainer(ALONE, training_cases.linear_model).model
    names = sorted(name for name in results if name.startswith("w"))
    for variable, name in zip(model.weights, names, strict=True):
        variable.assign(results[name])
    message = str(results["message"])
    step = int(re.search(r"from step (\d+) on", message)[1])
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    inner = keras.Model(model.inputs, [layer.output for layer in layers])
    data = ArrayTrainingInput(*training_cases.images(320), BATCH)
    first = []
    for part in range(replicas):
        context = tf.distribute.InputContext(replicas, part, replicas)
        images, _ = next(iter(data.dataset(context, step - 1, step)))
        outputs = [output.numpy() for output in inner(tf.cast(images, tf.float32), training=True)]
        first.append(next(i for i, output in enumerate(outputs) if not np.isfinite(output).all()))
    return layers[min(first)].path


def _check(results, replicas):
    message = str(results["message"])
    assert message.startswith("Training has diverged")
    place = f"first in the output of {_by_hand(results, replicas)}, at the learning rate 10."
    assert place in message
    first = int(re.search(r"from step (\d+) on", message)[1])
    assert results["step"] - first < MAX_SKIPPED_STEPS <= 50


def test_one_process_names_the_layer_that_a_search_by_hand_finds(alone):
    _check(alone["diverged"], 1)


def test_two_replicas_name_the_layer_that_a_search_by_hand_finds(on_two_cpus):
    _check(on_two_cpus["diverged"], 2)


@pytest.mark.slow
def test_two_workers_end_with_the_same_sentence(two_workers):
    for case in ("diverged", "exploded"):
        first, second = (two_workers[case, rank] for rank in range(2))
        assert str(first["message"]) == str(second["message"])
    _check(two_workers["diverged", 0], 2)


def test_weights_that_explode_end_the_run_although_all_values_are_finite(alone, on_two_cpus):
    for results in (alone["exploded"], on_two_cpus["exploded"]):
        message = str(results["message"])
        assert "must stay below 10,000 times that at the start. Received: step " in message
        assert " has grown to " in message
        assert results["step"] <= 50


def test_micro_batches_are_searched_one_after_the_other():
    x, y = training_cases.images(64)
    x = x.astype(np.float32)
    x[50, 0, 0, 0] = np.nan  # in the fourth part
    t = training_cases.trainer(
        ALONE, training_cases.plain_model, micro_batch_size=16, max_skipped_steps=1
    )
    with pytest.raises(DivergedError, match=r"in 1 step, from step 1 on, .*first in the input,"):
        t.fit(ArrayTrainingInput(x, y, BATCH), epochs=1, verbose=0)


def test_a_gradient_that_is_not_finite_behind_a_finite_loss_is_named():
    @tf.custom_gradient
    def with_bad_gradient(x):
        return x, lambda upstream: upstream * np.nan

    class Bad(keras.layers.Layer):
        def call(self, x):
            return with_bad_gradient(x)

    def build():
        layers = training_cases.plain_model().layers
        return keras.Sequential([keras.Input((8, 8, 3)), *layers[:2], Bad(), *layers[2:]])

    t = training_cases.trainer(ALONE, build, max_skipped_steps=1)
    data = ArrayTrainingInput(*training_cases.images(64), BATCH)
    with pytest.raises(DivergedError, match=r"in 2 of 4 gradients, first in the gradient of \S*b"):
        t.fit(data, epochs=1, verbose=0)


@pytest.mark.parametrize("source", ["dataset", "generator"])
def test_sources_of_batches_are_searched_with_their_first_batch(source):
    x, y = training_cases.images(320)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    steps = None
    if source == "generator":
        batches = list(data.as_numpy_iterator())
        data, steps = (batch for _ in range(9) for batch in batches), 5
    t = training_cases.trainer(
        ALONE, training_cases.plain_model, lambda: keras.optimizers.SGD(1e30)
    )
    with pytest.raises(DivergedError, match="first in the output of sequential/"):
        t.fit(data, epochs=3, steps_per_epoch=steps, verbose=0)


def test_the_model_is_as_before():
    """The search leaves nothing behind in the layers."""
    t = training_cases.trainer(
        ALONE, training_cases.plain_model, lambda: keras.optimizers.SGD(1e30)
    )
    data = ArrayTrainingInput(*training_cases.images(320), BATCH)
    with pytest.raises(DivergedError):
        t.fit(data, epochs=3, verbose=0)
    assert not any("call" in vars(layer) for layer in t.model.layers)

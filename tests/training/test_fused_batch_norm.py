"""Fused batch normalisation, beside Keras's own."""

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import batch_norm_cases, training_cases
from tf_lars.training.fused_batch_norm import (
    FusedBatchNormalization,
    fuse_batch_norm,
    unfuse_batch_norm,
)

Plain = keras.layers.BatchNormalization
IMAGES = (6, 5, 4, 16)


def _step(kind, shape=IMAGES, dtype="float32", mask=None, **arguments):
    """Returns results of a training step as float64: output, gradients, weights, inference."""
    random = np.random.default_rng(0)
    layer = kind(
        momentum=0.9,
        gamma_initializer=keras.initializers.RandomUniform(0.5, 2.0, seed=1),
        beta_initializer=keras.initializers.RandomNormal(seed=2),
        dtype=dtype,
        **arguments,
    )
    layer.build(shape)
    x = tf.constant(random.normal(3.0, 2.0, shape), layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(tf.cast(y, tf.float64) * random.normal(0.0, 1.0, shape))
    assert y.dtype == layer.compute_dtype
    gradients = tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])
    values = [y, *gradients, *layer.weights, layer(x, training=False)]
    return [tf.cast(tf.convert_to_tensor(value), tf.float64).numpy() for value in values]


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"shape": (3, 1, 1, 7)},
        {"shape": (1, 1, 1, 4)},
        {"center": False},
        {"scale": False},
        {"axis": 3, "epsilon": 1e-5},
        # The kernel cannot compute these.
        {"axis": 1},
        {"shape": (6, 16)},
        {"shape": (6, 4, 16)},
        {"dtype": "float64"},
        {"renorm": True},
        {"mask": np.arange(6 * 5 * 4).reshape(6, 5, 4) % 3 > 0},
    ],
    ids=str,
)
def test_a_training_step_is_that_of_keras(case):
    ours, theirs = _step(FusedBatchNormalization, **case), _step(Plain, **case)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(("dtype", "digits"), [("mixed_bfloat16", 8), ("mixed_float16", 11)])
def test_half_precision_is_normalised_in_float32(dtype, digits):
    ours, theirs = _step(FusedBatchNormalization, dtype=dtype), _step(Plain, dtype=dtype)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=2.0 ** (1 - digits), atol=5e-4)


def test_moving_statistics_are_float32_beside_half_precision():
    means = []
    for dtype in ("mixed_bfloat16", "float32"):
        layer = FusedBatchNormalization(dtype=dtype, momentum=0.0)
        layer(tf.fill((2, 2, 2, 1), 1.0 + 2.0**-7), training=True)
        means.append(float(layer.moving_mean[0]))
    assert means == [1.0 + 2.0**-7] * 2


def _kernels(function, *arguments):
    graph = function.get_concrete_function(*arguments).graph
    return sum(op.type.startswith("FusedBatchNorm") for op in graph.get_operations())


def test_images_of_any_size_take_the_kernel_within_xla_too():
    layer = FusedBatchNormalization()
    layer.build((None, None, None, 3))
    signature = [tf.TensorSpec([None, None, None, 3])]
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 6, 3)).astype("float32")
    results = []
    for compiled in (False, True):
        run = tf.function(
            lambda x: layer(x, training=True), jit_compile=compiled, input_signature=signature
        )
        assert _kernels(run) == 1
        results.append(run(x))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)


def test_frozen_and_synchronised_layers_compute_as_keras():
    for change in ({"trainable": False}, {"synchronized": True}):
        layer = FusedBatchNormalization()
        layer.build(IMAGES)
        for name, value in change.items():
            setattr(layer, name, value)
        run = tf.function(lambda x, layer=layer: layer(x, training=True))
        assert _kernels(run, tf.TensorSpec(IMAGES)) == 0


@pytest.mark.parametrize("micro_batch_size", [None, 16])
def test_a_network_trains_to_the_same_weights(micro_batch_size):
    def fused():
        model = batch_norm_cases.network()
        assert len(fuse_batch_norm(model)) == 2
        return model

    weights = []
    for build in (batch_norm_cases.network, fused):
        trainer = training_cases.trainer(
            tf.distribute.get_strategy(), build, micro_batch_size=micro_batch_size
        )
        x, y = training_cases.images(5 * training_cases.BATCH)
        trainer.fit(x, y, batch_size=training_cases.BATCH, epochs=4, shuffle=False, verbose=0)
        weights.append(trainer.model.get_weights())
    for plain, other in zip(*weights, strict=True):
        np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-4)


def test_a_file_loads_as_it_was_and_after_unfusing_without_this_package(tmp_path):
    path, model = tmp_path / "model.keras", batch_norm_cases.network()
    names = [weight.path for weight in model.weights]
    found = fuse_batch_norm(model)
    assert [weight.path for weight in model.weights] == names
    model.save(path)
    loaded = keras.models.load_model(path)
    x = training_cases.images(16)[0].astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    kinds = {type(layer) for layer in loaded._flatten_layers()}
    assert FusedBatchNormalization in kinds
    assert Plain not in kinds
    unfuse_batch_norm(model)
    assert {type(layer) for layer in found} == {Plain}
    model.save(path)
    with zipfile.ZipFile(path) as file:
        assert "tf_lars" not in file.read("config.json").decode()


def test_other_kinds_of_batch_norm_stay_as_they_are():
    class Own(Plain):
        pass

    model = keras.Sequential([keras.Input((4, 4, 2)), Own(), Plain(), FusedBatchNormalization()])
    found = fuse_batch_norm(model)
    assert found == model.layers[1:]
    assert [type(layer) for layer in model.layers] == [Own, *[FusedBatchNormalization] * 2]

"""AlexNet and AlexNet-BN: sizes, initial weights, local response normalisation, groups."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models.alexnet import GroupedConv2D, LocalResponseNormalization
from tf_lars.errors import InputError


def _trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.parametrize("image_size", [224, 227])
@pytest.mark.parametrize("name", ["alexnet", "alexnet_bn"])
def test_both_have_the_parameters_of_the_paper_at_224_and_227_pixels(name, image_size):
    model = models.create(name, num_classes=1000, image_size=image_size)
    assert _trainable(model) == 60_965_224
    assert model.output_shape == (None, 1000)
    assert model.get_layer("pool5").output.shape == (None, 6, 6, 256)


@pytest.fixture(scope="module")
def small():
    return {
        name: models.create(name, num_classes=10, image_size=64)
        for name in ("alexnet", "alexnet_bn")
    }


@pytest.mark.parametrize("image_size", [65, 96, 128])
def test_other_sizes_are_padded_to_the_stride(image_size):
    model = models.create("alexnet", num_classes=3, image_size=image_size)
    padded = model.get_layer("conv1").input.shape[1]
    assert image_size <= padded < image_size + 4
    assert (padded - 11) % 4 == 0
    assert model(np.zeros((2, image_size, image_size, 3), "uint8")).shape == (2, 3)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(InputError, match=r"at least 64 pixels\. Received: 63"):
        models.create("alexnet", num_classes=10, image_size=63)


def test_two_towers_meet_in_conv3(small):
    for model in small.values():
        groups = {n: model.get_layer(f"conv{n}").groups for n in range(1, 6)}
        assert groups == {1: 1, 2: 2, 3: 1, 4: 2, 5: 2}


# BVLC/caffe, models/bvlc_alexnet/train_val.prototxt, and Intel Caffe's AlexNet-BN.
@pytest.mark.parametrize(
    ("name", "biases"),
    [
        ("alexnet", (0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0)),
        ("alexnet_bn", (0.01, 0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.01)),
    ],
)
def test_the_initial_weights_are_those_of_caffe(small, name, biases):
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "logits"]
    stddevs = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    for layer_name, bias, stddev in zip(names, biases, stddevs, strict=True):
        layer = small[name].get_layer(layer_name)
        np.testing.assert_allclose(layer.bias, np.full(layer.bias.shape, bias), rtol=1e-6)
        assert np.std(layer.kernel) == pytest.approx(stddev, rel=0.05)


def test_alexnet_normalises_locally_after_relu_and_before_pooling(small):
    names = [layer.name for layer in small["alexnet"].layers]
    assert names[names.index("conv1") : names.index("conv3")] == [
        "conv1", "norm1", "pool1", "conv2", "norm2", "pool2",
    ]  # fmt: skip
    assert not any("bn" in name for name in names)


def test_alexnet_bn_normalises_the_inputs_of_conv2_to_conv5(small):
    model = small["alexnet_bn"]
    names = [layer.name for layer in model.layers]
    assert names[names.index("conv1") : names.index("flatten")] == [
        "conv1", "pool1", "bn2", "conv2", "pool2", "bn3", "conv3", "bn4", "conv4", "bn5",
        "conv5", "pool5",
    ]  # fmt: skip
    for number in range(2, 6):
        layer = model.get_layer(f"bn{number}")
        assert not layer.trainable_weights
        assert (layer.epsilon, layer.momentum) == (1e-4, 0.9)


@pytest.mark.parametrize(("name", "scale"), [("alexnet", 1), ("alexnet_bn", 256)])
def test_colours_are_those_of_caffe(small, name, scale):
    white = np.full((1, 64, 64, 3), 255, "uint8")
    expected = (255 - np.array([123.675, 116.28, 103.53])) / scale
    normalised = small[name].get_layer("normalise_colours")(white)
    np.testing.assert_allclose(normalised[0, 0, 0], expected, rtol=1e-5)


def test_local_response_normalisation_equals_tensorflows():
    x = np.random.default_rng(0).normal(0, 200, (2, 5, 5, 12)).astype("float32")
    expected = tf.nn.local_response_normalization(
        x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75
    )
    np.testing.assert_allclose(LocalResponseNormalization()(x), expected, rtol=1e-5)


def test_local_response_normalisation_keeps_half_precision_and_its_accuracy():
    x = tf.cast(np.random.default_rng(0).normal(0, 200, (1, 2, 2, 12)), tf.bfloat16)
    result = LocalResponseNormalization(dtype="mixed_bfloat16")(x)
    assert result.dtype == tf.bfloat16
    expected = LocalResponseNormalization()(tf.cast(x, tf.float32))
    np.testing.assert_allclose(tf.cast(result, tf.float32), expected, rtol=2**-8)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_grouped_convolution_equals_keras_forwards_and_backwards(jit_compile):
    x = tf.random.stateless_normal([2, 9, 9, 6], seed=[0, 1])
    grouped, theirs = (
        cls(8, 3, padding="same", groups=2, activation="relu")
        for cls in (GroupedConv2D, keras.layers.Conv2D)
    )
    grouped.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(grouped.get_weights())

    def run(layer):
        @tf.function(jit_compile=jit_compile)
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x) ** 2)
            return loss, tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])

        return tf.nest.flatten(step(x))

    for ours, expected in zip(run(grouped), run(theirs), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_bn"])
def test_the_model_is_saved_and_loaded(small, name, tmp_path):
    small[name].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    np.testing.assert_array_equal(loaded(images), small[name](images))

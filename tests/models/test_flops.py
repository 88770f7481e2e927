"""FLOPs and parameters of models, compared with publications and TensorFlow's profiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import models


def _create(name, image_size, num_classes=1000):
    return models.create(name, num_classes=num_classes, image_size=image_size)


# Multiply-adds in billions: He et al. 2016, table 1 (3.8 for version 1, which strides in the first
# 1x1 convolutions) and torchvision's figure for version 1.5; torchvision for ResNet-18 and VGG16;
# Sandler et al. 2018, table 4; Tan and Le 2019, table 2; Liu et al. 2022, table 1; Krizhevsky's
# AlexNet with groups, 724 M in the table of Caffe's models by Canziani et al. 2016.
@pytest.mark.parametrize(
    ("name", "image_size", "billions"),
    [
        ("resnet50", 224, 4.09),
        ("resnet18", 224, 1.81),
        ("alexnet", 227, 0.724),
        ("alexnet_bn", 224, 0.724),
        ("keras.applications/MobileNetV2", 224, 0.300),
        ("keras.applications/EfficientNetB0", 224, 0.39),
        ("keras.applications/ResNet50", 224, 3.86),
        ("keras.applications/ConvNeXtTiny", 224, 4.46),
    ],
)
def test_multiply_adds_are_the_published_ones(name, image_size, billions):
    model = _create(name, image_size)
    assert models.forward_flops(model, image_size) / 2e9 == pytest.approx(billions, rel=0.015)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("small_resnet20", 32),
        pytest.param("alexnet", 64, marks=pytest.mark.slow),
        ("keras.applications/MobileNetV2", 64),
        pytest.param("resnet50", 64, marks=pytest.mark.slow),
        pytest.param("keras.applications/DenseNet121", 64, marks=pytest.mark.slow),
    ],
)
def test_convolutions_and_products_are_those_that_the_profiler_counts(name, image_size):
    model = _create(name, image_size, num_classes=10)
    flops, without_depthwise = _profile(model, image_size)
    assert models.forward_flops(model, image_size) == flops
    assert without_depthwise < flops or "MobileNet" not in name


def _profile(model, image_size):
    """Returns tf.profiler's counts for the frozen graph, with and without depthwise."""
    forward = tf.function(lambda image: model(image, training=False))
    spec = tf.TensorSpec((1, image_size, image_size, 3))
    frozen = convert_variables_to_constants_v2(forward.get_concrete_function(spec)).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    counts = []
    for types in (["Conv2D", "DepthwiseConv2dNative", "MatMul"], ["Conv2D", "MatMul"]):
        options = (
            builder(builder.float_operation()).with_accounted_types(types).with_empty_output()
        ).build()
        with frozen.as_default():
            counted = tf.compat.v1.profiler.profile(frozen, options=options, cmd="scope")
        counts.append(counted.total_float_ops)
    return counts


def _flops(layer, shape=(8, 8, 6)):
    return models.forward_flops(Images(layer, shape), 8)


class Images(keras.Model):
    """Subclassed model that turns an image of 8 x 8 x 3 into `shape` and applies a layer."""

    def __init__(self, layer, shape):
        super().__init__()
        self.layer, self.shape_ = layer, shape

    def call(self, image):
        repeated = keras.ops.repeat(image, np.prod(self.shape_) // (8 * 8 * 3), axis=-1)
        return self.layer(keras.ops.reshape(repeated, (-1, *self.shape_)))


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        (keras.layers.Conv2D(4, 3, padding="same"), (8, 8, 6), 64 * 9 * 6 * 4),
        (keras.layers.Conv2D(4, 3, strides=2, padding="same"), (8, 8, 6), 16 * 9 * 6 * 4),
        # Keras computes this one in a compiled function.
        (keras.layers.Conv2D(4, 3, padding="same", groups=2), (8, 8, 6), 64 * 9 * 3 * 4),
        (keras.layers.DepthwiseConv2D(3, padding="same"), (8, 8, 6), 64 * 9 * 6),
        (keras.layers.Conv2DTranspose(4, 2, strides=2), (8, 8, 6), 64 * 4 * 6 * 4),
        (keras.layers.SeparableConv2D(5, 3, padding="same"), (8, 8, 6), 64 * (9 * 6 + 6 * 5)),
        (keras.layers.Conv1D(4, 3, padding="same"), (64, 6), 64 * 3 * 6 * 4),
        (keras.layers.Dense(7), (64 * 6,), 64 * 6 * 7),
        (keras.layers.Dense(7), (64, 6), 64 * 6 * 7),
        (keras.layers.EinsumDense("abcd,de->abce", (8, 8, 7)), (8, 8, 6), 64 * 6 * 7),
        (keras.layers.BatchNormalization(), (8, 8, 6), 0),
    ],
)  # fmt: skip
def test_layers_count_as_their_definition_says(layer, shape, multiply_adds):
    assert _flops(layer, shape) == 2 * multiply_adds


def test_products_within_attention_count():
    class SelfAttention(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = keras.layers.MultiHeadAttention(2, 5, flash_attention=False)

        def call(self, x):
            return self.attention(x, x)

    positions, channels, heads, size = 64, 6, 2, 5
    projections = 4 * positions * channels * heads * size
    products = 2 * positions * positions * heads * size
    assert _flops(SelfAttention(), (positions, channels)) == 2 * (projections + products)


def test_counting_leaves_the_model_as_it_was():
    model = _create("small_resnet8", 8, num_classes=10)
    before = model.get_weights()
    models.describe(model, 8)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_description_reads_as_a_phrase():
    described = models.describe(_create("small_resnet20", 32, num_classes=10), 32)
    assert str(described) == ("272,474 trainable parameters, 0.0816 GFLOPs per image, forward")

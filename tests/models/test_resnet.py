"""ResNets: sizes, the details of version 1.5, and the space-to-depth stem."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models import resnet, study_networks
from models.resnet import SpaceToDepthConv2D
from tf_lars.errors import InputError


def _trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


# torchvision's counts for the same networks.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameter_counts_of_the_imagenet_family(name, parameters):
    model = models.create(name, num_classes=1000, image_size=64)
    assert _trainable(model) == parameters
    assert model.output_shape == (None, 1000)


# He et al. 2016, table 6, gives 0.27 M for depth 20 and 0.85 M for 56, with parameter-free
# shortcuts; two projections add 0.0027 M to each.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.86)])
def test_parameter_counts_of_the_small_family(depth, millions):
    model = models.create(f"small_resnet{depth}", num_classes=10, image_size=32)
    assert _trainable(model) / 1e6 == pytest.approx(millions, abs=0.006)


def test_without_max_pooling_features_are_twice_as_large():
    unpooled = study_networks.resnet18_w16_unpooled(num_classes=10, image_size=64)
    pooled = resnet.imagenet_resnet(18, num_classes=10, image_size=64, width=16)
    assert _trainable(unpooled) == _trainable(pooled)
    sides = [model.get_layer("average_pool").input.shape[1] for model in (unpooled, pooled)]
    assert sides == [4, 2]


def test_resnet50_strides_in_the_3x3_convolution():
    model = models.create("resnet50", num_classes=10, image_size=64)
    for stage in (2, 3, 4):
        assert model.get_layer(f"stage{stage}_block1_conv1").strides == (1, 1)
        assert model.get_layer(f"stage{stage}_block1_conv2").strides == (2, 2)


def test_no_convolution_has_a_bias_and_every_block_begins_as_the_identity():
    model = models.create("resnet50", num_classes=10, image_size=64)
    convolutions = [layer for layer in model.layers if "conv" in layer.name and layer.weights]
    assert len(convolutions) == 53
    assert not any(layer.use_bias for layer in convolutions)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(1, blocks + 1):
            last = model.get_layer(f"stage{stage}_block{block}_bn3")
            assert not last.gamma.numpy().any()


def test_colours_are_normalised_inside_the_model():
    model = models.create("small_resnet8", num_classes=10, image_size=8)
    normalise = model.get_layer("normalise_colours")
    grey = np.full((1, 8, 8, 3), 255, np.uint8)
    expected = (255 - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(normalise(grey)[0, 0, 0], expected, rtol=1e-5)
    assert not normalise.weights


@pytest.fixture(scope="module")
def stems():
    """ResNet-18 with the plain and the space-to-depth stem, with the same random weights."""
    plain, rearranged = (
        models.create("resnet18", num_classes=10, image_size=64, space_to_depth_stem=wanted)
        for wanted in (False, True)
    )
    random = np.random.default_rng(0)
    for weight in plain.trainable_weights:  # gammas of zero would hide the rest of their blocks
        weight.assign(weight + random.normal(0, 0.1, weight.shape))
    rearranged.set_weights(plain.get_weights())
    return plain, rearranged


def test_both_stems_have_the_same_weights(stems):
    plain, rearranged = stems
    for one, other in zip(plain.weights, rearranged.weights, strict=True):
        assert (one.path, one.shape) == (other.path, other.shape)
    assert rearranged.get_layer("stem_conv").kernel.shape == (7, 7, 3, 64)
    assert type(rearranged.get_layer("stem_conv")) is not type(plain.get_layer("stem_conv"))


def test_both_stems_give_the_same_logits_and_gradients(stems):
    images = np.random.default_rng(1).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    logits, gradients = zip(*(_logits_and_gradients(model, images) for model in stems), strict=True)
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    for one, other in zip(*gradients, strict=True):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(one) + 1e-7


def _logits_and_gradients(model, images):
    @tf.function(jit_compile=True)
    def run(images):
        with tf.GradientTape() as tape:
            logits = model(images, training=False)
            loss = tf.reduce_sum(logits**2)
        return logits, tape.gradient(loss, [w.value for w in model.trainable_weights])

    logits, gradients = run(images)
    return logits.numpy(), [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 12), (13, 7), (230, 229)])
def test_space_to_depth_is_a_convolution_of_stride_2_at_any_size(height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("float32")
    plain = keras.layers.Conv2D(5, 7, strides=2)
    rearranged = SpaceToDepthConv2D(5, 7, strides=2)
    expected = plain(images).numpy()
    rearranged.build(images.shape)
    rearranged.set_weights(plain.get_weights())
    np.testing.assert_allclose(rearranged(images), expected, rtol=1e-4, atol=1e-5)
    assert rearranged.compute_output_shape(images.shape) == expected.shape


def test_one_space_to_depth_model_takes_images_of_any_size():
    model = models.create("resnet18", num_classes=10, image_size=None, space_to_depth_stem=True)
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    run = tf.function(stem, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for size in (64, 65):
        expected = (2, (size + 1) // 2, (size + 1) // 2, 64)
        assert run(np.zeros((2, size, size, 3), "float32")).shape == expected


def test_the_space_to_depth_model_is_saved_and_loaded(stems, tmp_path):
    stems[1].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.zeros((1, 64, 64, 3), "float32")
    np.testing.assert_array_equal(loaded(images), stems[1](images))


@pytest.mark.parametrize("name", ["small_resnet8", "alexnet", "keras.applications/ResNet50"])
def test_other_models_have_no_space_to_depth_stem(name):
    with pytest.raises(InputError, match=f"--space_to_depth_stem is for resnet18.*{name}"):
        models.create(name, num_classes=10, image_size=64, space_to_depth_stem=True)

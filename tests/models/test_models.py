"""The models: sizes, shapes, and the details that make ResNet v1.5."""

import math

import numpy as np
import pytest

import models


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


@pytest.mark.parametrize("name", ["nonsense", "resnet51", "small_resnet9", "small_resnet2", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    assert not models.known(name)
    with pytest.raises(ValueError, match="small_resnet"):
        models.create(name, num_classes=10, image_size=32)


def test_a_close_name_is_suggested():
    assert "Did you mean resnet50?" in models.unknown_name("resnet5O")

"""Models of keras.applications: published sizes, internal normalisation, float32 logits."""

import keras
import numpy as np
import pytest

import models
from tf_lars.errors import InputError

# All weights with 1,000 classes, from the table in Keras's documentation when it had exact counts;
# EfficientNetV2 and ConvNeXt as published on the same page in millions.
PUBLISHED = {
    "Xception": 22_910_480,
    "ResNet50": 25_636_712,
    "ResNet101": 44_707_176,
    "ResNet50V2": 25_613_800,
    "InceptionV3": 23_851_784,
    "MobileNet": 4_253_864,
    "MobileNetV2": 3_538_984,
    "DenseNet121": 8_062_504,
    "NASNetMobile": 5_326_716,
    "EfficientNetB0": 5_330_571,
    "EfficientNetV2B0": 7_200_312,
    "ConvNeXtTiny": 28_589_128,
}
LARGE = {
    "VGG16": 138_357_544,
    "VGG19": 143_667_240,
    "ResNet152": 60_419_944,
    "ResNet101V2": 44_675_560,
    "ResNet152V2": 60_380_648,
    "InceptionResNetV2": 55_873_736,
    "DenseNet169": 14_307_880,
    "DenseNet201": 20_242_984,
    "EfficientNetB7": 66_658_687,
    "NASNetLarge": 88_949_818,
}
FAMILIES = ["ResNet50", "ResNet50V2", "DenseNet121", "EfficientNetB0", "MobileNetV3Small"]


def _create(name, num_classes=10, image_size=96):
    return models.create(
        f"keras.applications/{name}", num_classes=num_classes, image_size=image_size
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *PUBLISHED.items(),
        *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in LARGE.items()),
    ],
)
@pytest.mark.slow
def test_parameter_counts_are_the_published_ones(name, parameters):
    # The kernels of VGG's dense layers depend on the image's size.
    model = _create(name, num_classes=1000, image_size=224 if "VGG" in name else 96)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 1000)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", models.APPLICATIONS)
def test_every_model_gives_float32_logits_in_mixed_precision(name, mixed_bfloat16):
    model = _create(name)
    assert model(np.zeros((1, 96, 96, 3), "uint8")).dtype == "float32"


# The documented effect of each family's preprocess_input, on a colour with different channels.
# EfficientNet's internal normalisation is that of its paper: the statistics of ImageNet.
@pytest.mark.parametrize(
    ("name", "first", "expected"),
    [
        ("ResNet50", "conv1_pad", (50 - 103.939, 100 - 116.779, 200 - 123.68)),
        ("VGG16", "block1_conv1", (50 - 103.939, 100 - 116.779, 200 - 123.68)),
        ("ResNet50V2", "conv1_pad", (200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1)),
        ("MobileNetV2", "Conv1", (200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1)),
        ("MobileNetV3Small", "conv", (200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1)),
        ("EfficientNetV2S", "stem_conv", (72 / 128, -28 / 128, -78 / 128)),
        *(
            (name, first, ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224,
                           (50 / 255 - 0.406) / 0.225))
            for name, first in (
                ("DenseNet121", "zero_padding2d"),
                ("EfficientNetB0", "stem_conv_pad"),
                ("EfficientNetV2B0", "stem_conv"),
                ("ConvNeXtTiny", "convnext_tiny_stem"),
            )
        ),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_colours_are_normalised_inside_as_the_family_asks(name, first, expected):
    keras.backend.clear_session()  # DenseNet's first layer is named by a counter
    model = _create(name, image_size=64)
    seen = keras.Model(model.input, model.get_layer(first).input)
    image = np.broadcast_to(np.array([200, 100, 50], "uint8"), (1, 64, 64, 3))
    np.testing.assert_allclose(seen(image)[0, 5, 5], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("image_size", [32, 75, 224])
def test_sizes_differ(image_size):
    model = _create("MobileNetV2", image_size=image_size)
    assert model(np.zeros((2, image_size, image_size, 3), "uint8")).shape == (2, 10)


def test_a_size_that_the_network_cannot_take_is_told_in_a_sentence():
    with pytest.raises(InputError, match="InceptionV3 cannot be built for images of 32 pixels"):
        _create("InceptionV3", image_size=32)


def test_the_model_is_saved_and_loaded(tmp_path):
    model = _create("EfficientNetB0", image_size=32)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-5, atol=1e-6)

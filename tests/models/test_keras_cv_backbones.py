"""KerasCV backbones: the listed settings build the networks that KerasCV publishes."""

import math

import keras
import numpy as np
import pytest

import models
from models import keras_cv_backbones
from tf_lars.errors import InputError

keras_cv = pytest.importorskip("keras_cv", reason="needs the extra `keras-cv`")


def _create(name, num_classes=10, image_size=64):
    return models.create(f"keras_cv/{name}", num_classes=num_classes, image_size=image_size)


def _parameters_of_backbone(model):
    return model.count_params() - sum(math.prod(w.shape) for w in model.get_layer("logits").weights)


def _preset(name, preset):
    """Returns the number of parameters that KerasCV states for a preset."""
    general = getattr(keras_cv.models, keras_cv_backbones.BACKBONES[name][0])
    return general.presets[preset]["metadata"]["params"]


# For EfficientNet (V1 and Lite), MobileNetV3 and MiT, the stated counts differ from those of the
# networks that KerasCV builds; these are compared with other sources below.
STATED = {
    "ResNet50Backbone": "resnet50",
    "ResNet18V2Backbone": "resnet18_v2",
    "EfficientNetV2B0Backbone": "efficientnetv2_b0",
    "CSPDarkNetTinyBackbone": "csp_darknet_tiny",
    "yolo_v8_xs_backbone": "yolo_v8_xs_backbone",
}
STATED_LARGE = {
    **{f"ResNet{d}Backbone": f"resnet{d}" for d in (18, 34, 101, 152)},
    **{f"ResNet{d}V2Backbone": f"resnet{d}_v2" for d in (34, 50, 101, 152)},
    **{f"EfficientNetV2B{n}Backbone": f"efficientnetv2_b{n}" for n in range(1, 4)},
    "EfficientNetV2SBackbone": "efficientnetv2_s",
    "CSPDarkNetSBackbone": "csp_darknet_s",
    "CSPDarkNetMBackbone": "csp_darknet_m",
    "EfficientNetV2MBackbone": "efficientnetv2_m",
    "EfficientNetV2LBackbone": "efficientnetv2_l",
    "CSPDarkNetLBackbone": "csp_darknet_l",
    "CSPDarkNetXLBackbone": "csp_darknet_xl",
    **{f"yolo_v8_{size}_backbone": f"yolo_v8_{size}_backbone" for size in ("s", "m", "l", "xl")},
}


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *STATED.items(),
        *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in STATED_LARGE.items()),
    ],
)
def test_parameter_counts_are_those_that_keras_cv_states(name, preset):
    assert _parameters_of_backbone(_create(name)) == _preset(name, preset)


@pytest.mark.exhaustive
def test_the_parameters_of_vitdet_are_those_that_keras_cv_states_at_1024_pixels():
    model = _create("ViTDetBBackbone", image_size=1024)
    assert _parameters_of_backbone(model) == _preset("ViTDetBBackbone", "vitdet_base")


# For these, KerasCV's counts include a classifier for ten classes.
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("MiTB0Backbone", "mit_b0"),
        *(
            pytest.param(f"MiTB{n}Backbone", f"mit_b{n}", marks=pytest.mark.exhaustive)
            for n in range(1, 6)
        ),
    ],
)
def test_parameter_counts_of_mit_with_ten_classes_are_those_that_keras_cv_states(name, preset):
    assert _create(name, num_classes=10).count_params() == _preset(name, preset)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("EfficientNetV1B0Backbone", "EfficientNetB0"),
        ("MobileNetV3SmallBackbone", "MobileNetV3Small"),
        ("MobileNetV3LargeBackbone", "MobileNetV3Large"),
        ("VGG16Backbone", "VGG16"),
        *(
            pytest.param(*names, marks=pytest.mark.exhaustive)
            for names in (
                *((f"EfficientNetV1B{n}Backbone", f"EfficientNetB{n}") for n in range(1, 8)),
                ("DenseNet121Backbone", "DenseNet121"),
                ("DenseNet169Backbone", "DenseNet169"),
                ("DenseNet201Backbone", "DenseNet201"),
            )
        ),
    ],
)
def test_trainable_parameters_are_those_of_the_same_network_in_keras(name, same):
    theirs = getattr(keras.applications, same)(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    ours = _create(name)
    head = sum(math.prod(w.shape) for w in ours.get_layer("logits").weights)
    assert models.describe(ours, 64).parameters - head == sum(
        math.prod(w.shape) for w in theirs.trainable_weights
    )


# timm's counts for 1,000 classes.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("EfficientNetLiteB0Backbone", 4_652_008),
        ("EfficientNetLiteB1Backbone", 5_416_680),
        ("EfficientNetLiteB2Backbone", 6_092_072),
        ("EfficientNetLiteB3Backbone", 8_197_096),
        ("EfficientNetLiteB4Backbone", 13_006_568),
    ],
)
def test_trainable_parameters_of_efficientnet_lite(name, parameters):
    model = _create(name, num_classes=1000)
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == parameters


@pytest.mark.parametrize("name", ["ResNet18V2Backbone", "MiTB0Backbone", "CSPDarkNetTinyBackbone"])
def test_float32_logits_in_mixed_precision_at_two_sizes(name, mixed_bfloat16):
    for image_size in (64, 96):
        model = _create(name, num_classes=7, image_size=image_size)
        logits = model(np.zeros((2, image_size, image_size, 3), "uint8"))
        assert (logits.shape, logits.dtype) == ((2, 7), "float32")


ONE_OF_EACH_CLASS = {cls: name for name, (cls, _) in reversed(keras_cv_backbones.BACKBONES.items())}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS.values())
def test_every_class_of_backbones_gives_float32_logits_in_mixed_precision(name, mixed_bfloat16):
    keras.backend.clear_session()
    model = _create(name)
    assert (model.output.shape, model.output.dtype) == ((None, 10), "float32")


def test_colours_from_0_to_255_are_scaled_inside():
    model = _create("ResNet18V2Backbone", image_size=32)
    seen = keras.Model(model.input, model.get_layer("conv1_conv").input)
    np.testing.assert_allclose(seen(np.full((1, 32, 32, 3), 255, "uint8")), 1.0)


def test_a_size_that_the_backbone_cannot_take_is_told_in_a_sentence():
    with pytest.raises(
        InputError, match=r"MiTB0Backbone cannot be built for images of 50 pixels.*32"
    ):
        _create("MiTB0Backbone", image_size=50)

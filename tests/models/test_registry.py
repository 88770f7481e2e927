"""Names of models: checked without Keras, complete, and corrected if misspelt."""

import subprocess
import sys

import pytest

import models
from models import keras_cv_backbones
from tests.helpers.paths import ROOT
from tf_lars.errors import InputError


def test_names_are_checked_without_importing_keras_or_tensorflow():
    program = (
        "import sys, models\n"
        "for name in ('resnet50', 'keras.applications/VGG16', 'keras_cv/ResNet50V2Backbone'):\n"
        "    models.check(name)\n"
        "print(sorted({'keras', 'tensorflow', 'keras_cv', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_all_models_of_the_installed_keras_are_known():
    import keras

    functions = [name for name in dir(keras.applications) if name[0].isupper()]
    assert sorted(models.APPLICATIONS) == sorted(functions)


def test_all_image_backbones_of_the_installed_keras_cv_are_known():
    keras_cv = pytest.importorskip("keras_cv", reason="needs the extra `keras-cv`")
    theirs = {name for name in dir(keras_cv.models) if name.endswith("Backbone")}
    # General classes, which need arguments, and backbones for videos or point clouds.
    general = {cls for cls, _ in keras_cv_backbones.BACKBONES.values()} - set(
        keras_cv_backbones.BACKBONES
    )
    others = {"Backbone", "CenterPillarBackbone"} | {
        f"VideoSwin{size}Backbone" for size in ("", "T", "S", "B")
    }
    ours = {name for name in keras_cv_backbones.BACKBONES if name.endswith("Backbone")}
    assert theirs - general - others == ours
    presets = keras_cv.models.YOLOV8Backbone.presets
    assert set(keras_cv_backbones.BACKBONES) - ours == {
        name for name in presets if "_coco" not in name
    }


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "",
        "resnet51",
        "small_resnet9",
        "small_resnet2",
        "small_resnet8_w0",
        "EfficientNetB0",
        "keras.applications/",
        "keras.applications/EfficientNetB8",
        "keras_cv/ResNet50V2",
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=r"small_resnetD.*keras.applications/NAME.*Received"):
        models.check(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet5O", "resnet50"),
        ("AlexNet", "alexnet"),
        ("alexnet-bn", "alexnet_bn"),
        ("smal_resnet20", "small_resnet20"),
        ("EfficientNetB0", "keras.applications/EfficientNetB0"),
        ("keras.application/vgg16", "keras.applications/VGG16"),
        ("ResNet50V2Backbone", "keras_cv/ResNet50V2Backbone"),
        ("keras_cv/resnet50v2", "keras_cv/ResNet50V2Backbone"),
    ],
)
def test_a_close_name_is_suggested(name, meant):
    with pytest.raises(InputError, match=rf"Did you mean {meant}\?"):
        models.check(name)

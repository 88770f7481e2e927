"""`imagenet`: Keras's published weights, from files made here in the place of the downloads."""

import keras
import keras.src.utils.file_utils as file_utils
import numpy as np
import pytest
import tensorflow as tf

import models
from launch.run import initial_weights
from launch.run.settings import TrainingSettings
from models import published_weights
from tf_lars.errors import InputError

VALUE = 0.25


@pytest.fixture(autouse=True)
def keras_home(monkeypatch, tmp_path):
    """Gives Keras a folder of its own for downloads."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def _filled(model):
    for weight in model.weights:
        weight.assign(np.full(weight.shape, VALUE))
    return model


def _started(name, image_size):
    """Returns the layers of a model that start afresh, and the table of all."""
    model = models.create(name, num_classes=7, image_size=image_size)
    settings = TrainingSettings(model=name, initial_weights="imagenet")
    table = initial_weights.load(settings, model, tf.distribute.get_strategy())
    own = {w.path.rpartition("/")[0] for w in model.weights if not np.all(w.numpy() == VALUE)}
    return own, table


@pytest.mark.parametrize(
    ("name", "image_size", "own"),
    [
        ("MobileNet", 32, {"conv_preds"}),
        ("EfficientNetB0", 32, {"normalization", "predictions"}),
        ("InceptionV3", 75, {"predictions"}),  # Keras makes the names of its layers
    ],
)
def test_all_but_the_head_is_loaded(name, image_size, own, monkeypatch, tmp_path):
    source = _filled(getattr(keras.applications, name)(weights=None))
    source.save_weights(tmp_path / "published.weights.h5")
    monkeypatch.setattr(
        file_utils, "get_file", lambda *_, **__: str(tmp_path / "published.weights.h5")
    )
    found, table = _started(f"keras.applications/{name}", image_size)
    assert {layer.partition("_")[0] if "normal" in layer else layer for layer in found} == own
    assert f"not loaded  {len(own):>8}" in table


def test_presets_of_keras_cv(monkeypatch):
    keras_cv = pytest.importorskip("keras_cv", reason="needs the extra `keras-cv`")
    name, asked = "keras_cv/EfficientNetV2B0Backbone", []
    source = _filled(models.create(name, num_classes=3, image_size=32))

    def from_preset(cls, preset, **_):
        asked.append(preset)
        return source

    family = keras_cv.models.EfficientNetV2Backbone
    monkeypatch.setattr(family, "from_preset", classmethod(from_preset))
    assert _started(name, 32)[0] == {"logits"}
    assert asked == ["efficientnetv2_b0_imagenet"]
    with pytest.raises(InputError, match=r"without them\. Use another"):
        published_weights.model_with_weights("keras_cv/ViTDetBBackbone")


def test_a_download_that_fails_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure on https://storage.example/x.h5: None -- unreachable")

    monkeypatch.setattr(file_utils, "get_file", fail)
    with pytest.raises(InputError, match=r"Received for --model=.*: URL fetch failure.*Check the"):
        published_weights.model_with_weights("keras.applications/MobileNet")


def test_other_models_have_no_published_weights():
    with pytest.raises(InputError, match=r"imagenet is for keras\.applications/NAME and keras_cv/"):
        initial_weights.check(TrainingSettings(model="resnet50", initial_weights="imagenet"))

"""`--initial_weights`: checkpoints of runs as sources, and what is refused."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from launch.run import initial_weights
from launch.run.settings import TrainingSettings
from tests.models.test_freezing import Net
from tf_lars import LARS
from tf_lars.errors import InputError
from tf_lars.optimizers.loss_scale import LossScaleOptimizer
from tf_lars.tracking import results
from tf_lars.training.checkpoints import CheckpointStore


def _net():
    keras.backend.clear_session()
    net = Net()
    net(tf.zeros([1, 8, 8, 3]))
    return net


def _small(num_classes=10):
    return models.create("small_resnet8", num_classes=num_classes, image_size=8)


def _saved(model, folder, settings, optimizer=None):
    """Trains a model for a step and saves it as a run does; returns its weights."""
    model.compile(optimizer or LARS(1.0), "mse")
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3))
    model.fit(x, np.zeros([8, model(x[:1]).shape[1]]), verbose=0)
    CheckpointStore(str(folder / "checkpoints"), settings).save(model, 1, [])
    return [weight.numpy() for weight in model.weights]


def _load(source, model, name):
    settings = TrainingSettings(model=name, initial_weights=str(source))
    return initial_weights.load(settings, model, tf.distribute.get_strategy())


def _same(values, weights):
    return all(np.array_equal(a, w.numpy()) for a, w in zip(values, weights, strict=True))


@pytest.mark.parametrize("part", ["", "checkpoints/step-00000001"])
def test_a_run_and_one_of_its_checkpoints(part, tmp_path):
    weights = _saved(_small(), tmp_path, {"model": "small_resnet8"})
    model = _small(num_classes=4)
    table = _load(tmp_path / part, model, "small_resnet8")
    assert _same(weights[:-2], model.weights[:-2])
    assert "loaded            18         45" in table
    # A network of another depth takes the layers of the same name and shapes.
    deeper = models.create("small_resnet14", num_classes=10, image_size=8)
    assert "loaded            19         47" in _load(tmp_path / part, deeper, "small_resnet14")


def test_all_replicas_get_the_weights(mirrored, tmp_path):
    weights = _saved(_small(), tmp_path, {"model": "small_resnet8"})
    with mirrored.scope():
        model = _small()
    settings = TrainingSettings(model="small_resnet8", initial_weights=str(tmp_path))
    initial_weights.load(settings, model, mirrored)
    for replica in (0, 1):
        replicas = [mirrored.experimental_local_results(w.value)[replica] for w in model.weights]
        assert _same(weights, replicas)


def test_workers_that_load_different_weights_are_refused(mirrored, monkeypatch, tmp_path):
    _saved(_small(), tmp_path, {"model": "small_resnet8"})
    monkeypatch.setattr(results, "gather_digests", lambda strategy, digest: [digest, "another"])
    with mirrored.scope():
        model = _small()
    settings = TrainingSettings(model="small_resnet8", initial_weights=str(tmp_path))
    with pytest.raises(InputError, match=r"must load the same weights\. Received: 2 different"):
        initial_weights.load(settings, model, mirrored)


def test_layers_within_layers_are_found_by_the_same_model(tmp_path):
    weights = _saved(_net(), tmp_path, {"model": "net.py:build"})
    model = _net()
    _load(tmp_path, model, "net.py:build")
    assert _same(weights, model.weights)
    with pytest.raises(InputError, match="of which none fits: its layers begin with 'net'"):
        _load(tmp_path, _small(), "small_resnet8")


@pytest.mark.parametrize("wrap", [lambda inner: inner, LossScaleOptimizer])
def test_weights_are_averaged_if_the_run_evaluated_averages(wrap, tmp_path):
    optimizer = wrap(LARS(1.0, use_ema=True, ema_momentum=0.5))
    source = _small()
    settings = {"model": "small_resnet8", "ema_momentum": 0.5}
    _saved(source, tmp_path, settings, optimizer)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    doubled = [2 * w.numpy() for w in source.trainable_weights]
    for average, value in zip(inner._model_variables_moving_average, doubled, strict=True):
        average.assign(value)
    CheckpointStore(str(tmp_path / "checkpoints"), settings).save(source, 2, [])
    model = _small()
    _load(tmp_path, model, "small_resnet8")
    assert _same(doubled, model.trainable_weights)


def test_a_damaged_checkpoint_is_refused_and_an_older_one_of_the_run_is_taken(tmp_path):
    model = _small()
    weights = _saved(model, tmp_path, {"model": "small_resnet8"})
    CheckpointStore(str(tmp_path / "checkpoints"), {"model": "small_resnet8"}).save(model, 2, [])
    newest = tmp_path / "checkpoints" / "step-00000002"
    next(newest.glob("*.data-*")).write_bytes(b"damaged")
    with pytest.raises(InputError, match="must hold a complete checkpoint"):
        _load(newest, _small(), "small_resnet8")
    other = _small()
    _load(tmp_path, other, "small_resnet8")
    assert _same(weights, other.weights)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", "which does not exist"),
        ("missing.keras", "which does not exist"),
        ("text.txt", "which is no such file"),
        ("empty", "must hold a complete checkpoint"),
        ("", "which does not exist"),
    ],
)
def test_a_source_that_cannot_be_one_is_refused_before_tensorflow_starts(
    source, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    settings = TrainingSettings(model_dir=str(tmp_path / "run"), initial_weights=source)
    with pytest.raises(InputError, match=message):
        initial_weights.check(settings)
    # A run that resumes has its own.
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir(parents=True)
    initial_weights.check(settings)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.keras"
    path.write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"'.*a\.keras', which cannot be read"):
        _load(path, _small(), "small_resnet8")

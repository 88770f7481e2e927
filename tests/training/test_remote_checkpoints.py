"""Checkpoints on a remote file system, as on a local one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars import LARS, Trainer, files
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import InputError
from tf_lars.training import run_lock
from tf_lars.training.checkpoint_folder import complete_checkpoints
from tf_lars.training.checkpoints import CheckpointStore

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X @ np.ones((4, 1), "float32")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.01)


@pytest.fixture
def directory(tmp_path):
    return f"ram://{tmp_path}/checkpoints"


def _fit(directory, epochs, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(LARS(0.1), "mse")
    store = CheckpointStore(directory, {"batch": 8}, **options)
    trainer = Trainer(model, tf.distribute.get_strategy(), steps_per_loop=2)
    history = trainer.fit(
        ArrayTrainingInput(X, Y, 8),
        epochs=epochs,
        validation_data=ArrayEvaluationInput(X, Y, 8),
        checkpoints=store,
    )
    return [w.numpy() for w in model.weights], [entry["epoch"] for entry in history], store


def test_a_run_resumes_from_them_with_the_bits_of_an_undisturbed_one(directory, tmp_path):
    _fit(directory, 2)
    weights, epochs, store = _fit(directory, 5, keep=2)
    assert store.resumed_from == f"{directory}/step-00000008"
    assert epochs == [1, 2, 3, 4, 5]
    expected, *_ = _fit(str(tmp_path / "local"), 5)
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert files.names(directory, hidden=True) == ["step-00000016", "step-00000020"]


def test_one_without_its_state_or_with_another_is_passed_over(directory):
    _fit(directory, 4, keep=4)
    files.remove(f"{directory}/step-00000016/state.json")
    path = f"{directory}/step-00000012/state.json"
    with files.open_file(path, "w") as file:
        file.write(json.dumps(files.read_json(path) | {"step": 16}))
    assert [one.step for one in complete_checkpoints(directory)] == [8, 4]
    assert _fit(directory, 4)[2].resumed_step == 8


def test_they_are_moved_aside_once_per_job(directory):
    _fit(directory, 1)
    assert _fit(directory, 2, resume="never", job="one")[2].started_afresh
    assert _fit(directory, 3, resume="never", job="one")[2].resumed_step == 8
    parent = directory.rpartition("/")[0]
    aside, now = files.names(parent)[::-1]
    assert (now, aside.rpartition("-")[0][:12]) == ("checkpoints", "checkpoints-")
    assert [one.step for one in complete_checkpoints(f"{parent}/{aside}")] == [4]


def test_two_runs_at_once_are_refused(directory):
    with CheckpointStore(directory, {}).exclusive(), pytest.raises(InputError, match="one run"):
        _fit(directory, 1)

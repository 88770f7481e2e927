"""Keras callbacks in `Trainer.fit`."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars import LARS
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import Preempted
from tf_lars.training.checkpoints import CheckpointStore


def fit(callbacks, strategy=None, build=training_cases.plain_model, optimizer=None, **arguments):
    """Trains on five batches per epoch, evaluates each epoch, and returns trainer and history."""
    trainer = training_cases.trainer(
        strategy or tf.distribute.get_strategy(),
        build,
        optimizer or (lambda: keras.optimizers.SGD(0.05)),
        steps_per_loop=2,
    )
    defaults = {
        "epochs": 3,
        "validation_data": ArrayEvaluationInput(*training_cases.images(50, seed=1), 32),
    }
    data = ArrayTrainingInput(*training_cases.images(320), training_cases.BATCH)
    return trainer, trainer.fit(data, callbacks=callbacks, **{**defaults, **arguments})


@pytest.fixture(params=["one device", pytest.param("two devices", marks=pytest.mark.slow)])
def strategy(request):
    if request.param == "one device":
        return tf.distribute.get_strategy()
    return request.getfixturevalue("mirrored")


@pytest.mark.parametrize("build", [training_cases.plain_model, training_cases.small_resnet])
def test_model_checkpoint_saves_what_was_evaluated(build, strategy, tmp_path):
    path = tmp_path / "{epoch}-{val_loss:.4f}.keras"
    trainer, history = fit([keras.callbacks.ModelCheckpoint(path)], strategy, build)
    files = sorted(tmp_path.iterdir())
    assert [f.stem for f in files] == [f"{h['epoch']}-{h['val_loss']:.4f}" for h in history]
    saved = keras.models.load_model(files[-1])
    for weight, mine in zip(saved.weights, trainer.model.weights, strict=True):
        np.testing.assert_array_equal(weight, mine)
    x, y = training_cases.images(50, seed=1)
    loss = saved.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(history[-1]["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_model_checkpoint_saves_averaged_statistics_without_an_evaluation(mirrored, tmp_path):
    trainer, _ = fit(
        [keras.callbacks.ModelCheckpoint(tmp_path / "last.keras")],
        mirrored,
        training_cases.small_resnet,
        validation_data=None,
    )
    saved = keras.models.load_model(tmp_path / "last.keras")
    for weight, mine in zip(saved.weights, trainer.model.weights, strict=True):
        for replica in mirrored.experimental_local_results(mine.value):
            np.testing.assert_array_equal(weight, replica, err_msg=mine.path)


def test_model_checkpoint_keeps_the_best(tmp_path):
    path = tmp_path / "best.keras"
    worse = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 50.0)
    best = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True)
    _, history = fit([worse, best])
    losses = [h["val_loss"] for h in history]
    assert np.argmin(losses) == 1
    x, y = training_cases.images(50, seed=1)
    saved = keras.models.load_model(path).evaluate(x, y, verbose=0, return_dict=True)
    assert saved["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_early_stopping_ends_the_run_and_puts_the_best_weights_back(strategy):
    kept = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(stop.model.get_weights())
    )
    worse = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 2 else 50.0)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    trainer, history = fit([worse, keep, stop], strategy, epochs=9)
    assert [h["epoch"] for h in history] == [1, 2, 3, 4]
    for weight, best in zip(trainer.model.weights, kept[1], strict=True):
        for replica in strategy.experimental_local_results(weight.value):
            np.testing.assert_array_equal(replica, best)


def test_csv_logger_writes_a_row_per_epoch_and_every_column_once(tmp_path):
    path = tmp_path / "log.csv"
    _, history = fit([keras.callbacks.CSVLogger(path)])
    header, *rows = csv.reader(path.open())
    assert len(set(header)) == len(header)
    assert {"epoch", "step", "loss", "accuracy", "val_loss", "learning_rate"} <= set(header)
    for row, entry in zip(rows, history, strict=True):
        values = dict(zip(header, map(float, row), strict=True))
        assert values["epoch"] == entry["epoch"] - 1  # Keras counts from 0
        for name in ("loss", "val_loss", "step"):
            assert values[name] == pytest.approx(entry[name])


def test_tensorboard_writes_scalars_and_histograms(tmp_path):
    fit([keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, update_freq=1)])
    tags = {}
    for run in ("train", "validation"):
        tags[run] = {
            (value.tag, event.step)
            for file in (tmp_path / run).iterdir()
            for event in tf.compat.v1.train.summary_iterator(str(file))
            for value in event.summary.value
        }
    assert {("epoch_loss", 2), ("epoch_accuracy", 0)} <= tags["train"]
    assert ("epoch_loss", 2) in tags["validation"]
    assert any("kernel" in tag for tag, _ in tags["train"])
    assert any(tag == "batch_loss" for tag, _ in tags["train"])


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.SGD(0.05), lambda: LARS(0.05, momentum=0.0)],
    ids=["SGD", "LARS"],
)
def test_learning_rate_scheduler_sets_the_rate_of_the_steps(optimizer, strategy):
    kept = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(keep.model.get_weights())
    )
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: [0.05, 0.0, 0.01][epoch])
    _, history = fit([schedule, keep], strategy, optimizer=optimizer)
    np.testing.assert_allclose([h["learning_rate"] for h in history], [0.05, 0.0, 0.01])
    moved = [
        any(not np.array_equal(a, b) for a, b in zip(kept[i], kept[i + 1], strict=True))
        for i in (0, 1)
    ]
    assert moved == [False, True]


def test_reduce_lr_on_plateau_sets_the_rate_of_the_next_epoch():
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.1, patience=1, min_delta=99.0)
    trainer, history = fit([plateau], epochs=4)
    np.testing.assert_allclose(
        [h["learning_rate"] for h in history], [0.05, 0.05, 0.005, 0.0005], rtol=1e-6
    )
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(5e-5)


def test_lambda_callbacks_are_called_at_every_point():
    seen = []

    def note(name):
        return lambda *arguments, **named: seen.append(name)

    points = ("train_begin", "epoch_begin", "train_batch_begin", "train_batch_end", "epoch_end")
    callback = keras.callbacks.LambdaCallback(
        **{f"on_{point}": note(point) for point in (*points, "train_end")}
    )
    fit([callback], epochs=1)
    loop = ["train_batch_begin", "train_batch_end"]
    assert seen == ["train_begin", "epoch_begin", *3 * loop, "epoch_end", "train_end"]


class _Evaluations(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)

    def on_test_begin(self, logs=None):
        self.seen.append("begin")

    def on_test_end(self, logs=None):
        self.seen.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append("epoch")


def test_callbacks_see_the_begin_and_the_results_of_each_evaluation():
    callback = _Evaluations()
    _, history = fit([callback], epochs=2)
    results = [
        {name.removeprefix("val_"): entry[name] for name in entry if name.startswith("val_")}
        for entry in history
    ]
    assert set(results[0]) >= {"loss", "accuracy"}
    first, second = ([*steps, "begin"] for steps in ([1, 3, 4], [6, 8, 9]))
    assert callback.seen == [*first, results[0], "epoch", *second, results[1], "epoch"]


def test_without_validation_data_no_evaluation_begins():
    callback = _Evaluations()
    fit([callback], epochs=1, validation_data=None)
    assert callback.seen == [1, 3, 4, "epoch"]


def test_terminate_on_nan_ends_the_run_in_peace():
    trainer, history = fit(
        [keras.callbacks.TerminateOnNaN()], optimizer=lambda: keras.optimizers.SGD(1e30)
    )
    assert trainer.model.stop_training
    # Only the first of the five steps of the first epoch was taken, and none of the second.
    assert [entry["skipped_steps"] for entry in history] == [4, 9]
    assert [np.isfinite(entry["loss"]) for entry in history] == [True, False]


def test_an_epoch_that_ends_with_a_nan_leaves_no_checkpoint(tmp_path):
    store = CheckpointStore(str(tmp_path), {})
    fit(
        [keras.callbacks.TerminateOnNaN()],
        optimizer=lambda: keras.optimizers.SGD(1e30),
        checkpoints=store,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_a_request_to_stop_saves_the_step_and_the_rest_gives_the_same_weights(strategy, tmp_path):
    whole, _ = fit([], strategy)
    asked = []

    def stop():
        asked.append(None)
        return len(asked) == 2  # after steps 1 to 4 of the first epoch's five

    with pytest.raises(Preempted, match="after step 4 of 15"):
        fit([], strategy, checkpoints=CheckpointStore(str(tmp_path), {}), stop_requested=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    rest, history = fit([], strategy, checkpoints=CheckpointStore(str(tmp_path), {}))
    assert [entry["step"] for entry in history] == [5, 10, 15]
    for one, other in zip(rest.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_request_in_the_last_step_is_too_late():
    asked = []

    def stop():
        asked.append(None)
        return len(asked) == 3

    _, history = fit([], epochs=1, stop_requested=stop)
    assert [entry["step"] for entry in history] == [5]
    assert "val_loss" in history[0]

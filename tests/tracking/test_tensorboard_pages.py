"""What TensorBoard itself, asked over HTTP, shows of a run: settings, input images, the network."""

import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.compat.proto.graph_pb2 import GraphDef

from tests.helpers import tensorboard_server
from tf_lars import LARS, Trainer
from tf_lars.data import contact_sheet
from tf_lars.tracking.graph import NetworkGraph
from tf_lars.tracking.hparams import HParams
from tf_lars.tracking.input_images import InputImages
from tf_lars.tracking.metric_log import MetricLog

SETTINGS = {
    "model": "dense",
    "global_batch_size": 8,
    "learning_rate": np.float32(0.5),
    "nesterov": True,
    "image_size_schedule": ((0, 4), (1, 8)),
    "absent": None,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)


class Subclassed(keras.Model):
    """Model that does not say what its inputs are."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def _functional():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(hidden))


def _run(log, model, *callbacks, initial_epoch=0):
    """Trains for one epoch of four steps, with validation scalars, and closes the log."""
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(LARS(0.1), loss, metrics=["accuracy"])

    def validation(epoch, logs):
        values = {"loss": logs["val_loss"], "top1": logs["val_accuracy"]}
        log.scalars(int(logs["step"]), values, "validation")

    begin = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: log.begin(4 * initial_epoch, {}), on_epoch_end=validation
    )
    history = Trainer(model).fit(
        *(x, y, 8, initial_epoch + 1),
        verbose=0,
        callbacks=[begin, *callbacks],
        validation_data=(x, y),
        initial_epoch=initial_epoch,
    )
    log.close()
    return history


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: a function that asks TensorBoard about it, and its history."""
    folder = tmp_path_factory.mktemp("run")
    log = MetricLog(str(folder / "tensorboard"), str(folder / "metrics.jsonl"))
    callbacks = HParams(log, SETTINGS), InputImages(log, lambda: IMAGES), NetworkGraph(log)
    history = _run(log, _functional(), *callbacks)
    with tensorboard_server.serving(folder / "tensorboard") as ask:
        yield ask, history


def test_tensorboard_lists_settings_and_the_last_validation(finished):
    ask, history = finished
    body = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_UNKNOWN"]}
    (group,) = json.loads(ask("plugin/hparams/session_groups", body | {"colParams": []}))[
        "sessionGroups"
    ]
    assert group["hparams"] == {
        "model": "dense",
        "global_batch_size": 8.0,
        "learning_rate": 0.5,
        "nesterov": True,
        "image_size_schedule": "((0, 4), (1, 8))",
    }
    metrics = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert metrics == {
        "top1": pytest.approx(history[-1]["val_accuracy"]),
        "loss": pytest.approx(history[-1]["val_loss"]),
    }


def test_settings_have_types_and_metrics_have_names(finished):
    ask, _ = finished
    experiment = json.loads(ask("plugin/hparams/experiment", {}))
    assert {info["name"]: info["type"] for info in experiment["hparamInfos"]} == {
        "model": "DATA_TYPE_STRING",
        "global_batch_size": "DATA_TYPE_FLOAT64",
        "learning_rate": "DATA_TYPE_FLOAT64",
        "nesterov": "DATA_TYPE_BOOL",
        "image_size_schedule": "DATA_TYPE_STRING",
    }
    names = [info["displayName"] for info in experiment["metricInfos"]]
    assert names == ["validation top1", "validation loss"]


def test_the_input_images_are_shown_pixel_by_pixel(finished):
    ask, _ = finished
    sample = {"run": "train", "tag": "input/images", "sample": 0}
    (entry,) = json.loads(ask("plugin/images/images", **sample))
    png = ask(f"plugin/images/individualImage?{entry['query']}")
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert entry["step"] == 0
    assert (picture == contact_sheet.tiled(IMAGES)).all()


def test_the_graph_is_that_of_the_layers_without_the_step(finished):
    ask, _ = finished
    listed = json.loads(ask("plugin/graphs/info"))
    assert listed["train"]["run_graph"]
    text = ask("plugin/graphs/graph", run="train", conceptual="false").decode()
    graph = text_format.Parse(text, GraphDef())
    operations = {node.op for node in graph.node}
    assert operations >= {"MatMul", "Relu"}
    assert any("hidden" in node.name for node in graph.node)
    assert any("logits" in node.name for node in graph.node)
    assert not operations & {"IteratorGetNext", "While", "CollectiveReduceV2"}


def test_small_images_are_enlarged_and_rows_have_eight():
    sheet = contact_sheet.tiled(IMAGES)
    assert sheet.shape == (2 * 64 + 2, 8 * 64 + 7 * 2, 3)
    for number, image in enumerate(IMAGES):
        row, column = divmod(number, 8)
        tile = sheet[66 * row :, 66 * column :][:64, :64]
        assert (tile[::8, ::8] == image).all()
        assert (tile[7::8, 7::8] == image).all()
    assert (sheet[66:, 66 * 3 :] == 255).all()


def test_large_images_keep_their_size():
    assert contact_sheet.tiled(np.zeros((2, 224, 100, 3), np.uint8)).shape == (224, 202, 3)


class _Recorder:
    def __init__(self):
        self.written = []

    def image(self, step, tag, draw):
        self.written.append(tag)

    def event(self, run, **fields):
        self.written.append(run)


def test_a_resumed_run_writes_neither_images_nor_the_graph_again():
    log = _Recorder()
    for callback in (InputImages(log, lambda: IMAGES), NetworkGraph(log)):
        callback.set_model(_functional())
        for step in (12, 16):
            callback.on_train_batch_begin(step)
    assert log.written == []


def test_a_fresh_run_writes_them_once():
    log = _Recorder()
    for callback in (InputImages(log, lambda: IMAGES), NetworkGraph(log)):
        callback.set_model(_functional())
        for step in (0, 4, 0):
            callback.on_train_batch_begin(step)
    assert log.written == ["input/images", "train"]


def test_a_model_that_cannot_be_traced_alone_has_no_graph_and_no_error():
    log = _Recorder()
    callback = NetworkGraph(log)
    callback.set_model(Subclassed())
    callback.on_train_batch_begin(0)
    assert log.written == []


def test_a_subclassed_model_is_traced_with_a_given_specification():
    log = _Recorder()
    callback = NetworkGraph(log, tf.TensorSpec((1, 4), tf.float32))
    model = Subclassed()
    model(np.ones((1, 4), "float32"))
    callback.set_model(model)
    callback.on_train_batch_begin(0)
    assert log.written == ["train"]


def test_a_model_of_two_replicas_is_traced(mirrored):
    log = _Recorder()
    callback = NetworkGraph(log)
    with mirrored.scope():
        callback.set_model(_functional())
        callback.on_train_batch_begin(0)
    assert log.written == ["train"]


def test_images_that_cannot_be_read_cost_one_warning(tmp_path, capsys):
    def images():
        raise OSError("no such shard")

    log = MetricLog(str(tmp_path / "tensorboard"), str(tmp_path / "metrics.jsonl"))
    history = _run(log, _functional(), InputImages(log, images))
    assert len(history) == 1
    assert "no such shard" in capsys.readouterr().out

"""Pictures, results and TensorBoard events."""

import hashlib
import json

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tests.helpers import faulty_disks
from tf_lars.tracking import report, results
from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.scalars import ScalarLogger

LOGS = {"loss": 0.5, "top1": 0.25, "learning_rate": 3.0, "images_per_second": 1234.5}


def _history(epochs=4):
    return [
        LOGS | {"epoch": e, "step": 10 * e, "top5": 0.5, "val_loss": 0.4, "val_top1": 0.3}
        for e in range(1, epochs + 1)
    ]


def test_the_report_is_a_picture_of_the_history(tmp_path):
    empty, full = tmp_path / "empty.png", tmp_path / "full.png"
    report.draw(_history(1), str(empty), "one epoch")
    report.draw(_history(), str(full), "four epochs")
    picture = np.asarray(Image.open(full).convert("RGB"))
    assert picture.shape[0] > 300
    assert picture.shape[1] > 900
    assert (picture != np.asarray(Image.open(empty).convert("RGB"))).any()
    blue, green = (31, 119, 180), (44, 160, 44)
    for colour in (blue, green):
        assert (np.abs(picture.astype(int) - colour).sum(-1) < 20).sum() > 100


def test_the_weights_hash_is_that_of_the_float32_bytes_in_order():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    norm, dense = model.layers
    expected = hashlib.sha256()
    for weight in (
        norm.gamma,
        norm.beta,
        dense.kernel,
        dense.bias,
        norm.moving_mean,
        norm.moving_variance,
    ):
        expected.update(weight.numpy().astype("<f4").tobytes())
    assert results.weights_sha256(model) == expected.hexdigest()


def test_digests_are_gathered_from_all_replicas(mirrored):
    digest = hashlib.sha256(b"weights").hexdigest()
    assert results.gather_digests(mirrored, digest) == [digest] * 2
    assert results.gather_digests(tf.distribute.get_strategy(), digest) == [digest]


def test_results_are_json_and_a_table(tmp_path):
    path = tmp_path / "results.json"
    results.write(str(path), {"top1": 0.5, "steps": 85})
    assert json.loads(path.read_text()) == {"top1": 0.5, "steps": 85}
    assert results.table({"top1": 0.5, "steps": 85}).split() == ["top1", "0.5000", "steps", "85"]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_costs_metrics_and_one_warning(tmp_path, capsys):
    with faulty_disks.small(tmp_path / "disk", megabytes=1) as disk:
        log = MetricLog(str(disk.path / "tensorboard"), str(disk.path / "metrics.jsonl"))
        logger = ScalarLogger(log, lambda: 0, epoch_of=float)
        logger.on_train_begin()
        disk.fill()
        for step in range(2):
            for _ in range(500):  # More than its buffers hold.
                logger.on_train_batch_end(step, LOGS)
            logger.on_epoch_end(step, LOGS | {"step": step + 1, "val_loss": 0.4})
        log.close()
    assert capsys.readouterr().out.count("warning: metrics cannot be written") == 1

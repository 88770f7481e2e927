"""The Keras callbacks of trackers under `Trainer`, on the chief of two real worker processes."""

import json

import numpy as np
import pytest

from tests.helpers import tensorboard_server, trackers_worker, two_processes, wandb_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trackers")


@pytest.fixture(scope="module")
def workers(folder):
    """Results of both workers, the chief first."""
    return two_processes.run("tests.helpers.trackers_worker", folder)


def test_only_the_chief_has_trackers_and_both_workers_train_alike(workers):
    chief, other = workers
    assert "TensorBoard" in chief["trackers"]
    assert len(other["trackers"]) == 0
    assert len(chief["loss"]) == trackers_worker.EPOCHS
    for name in ("kernel", "loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_array_equal(chief[name], other[name], err_msg=name)


def test_tensorboards_own_callback_writes_the_values_of_each_epoch(workers, folder):
    with tensorboard_server.serving(folder / "tensorboard") as ask:
        for run, prefix in (("train", ""), ("validation", "val_")):
            for name in ("loss", "accuracy"):
                points = json.loads(ask("plugin/scalars/scalars", run=run, tag=f"epoch_{name}"))
                assert [point[1] for point in points] == list(range(trackers_worker.EPOCHS))
                np.testing.assert_allclose(
                    [point[2] for point in points], workers[0][prefix + name], rtol=1e-6
                )
    assert len(list((folder / "tensorboard" / "train").iterdir())) == 1  # of one process


def test_the_callback_of_wandb_logs_each_epoch_without_the_network(workers, folder):
    pytest.importorskip("wandb", reason="wandb is in the extra `test`")
    rows = wandb_file.history(folder)
    assert [row["epoch/epoch"] for row in rows] == list(range(trackers_worker.EPOCHS))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "step", "learning_rate"):
        np.testing.assert_allclose(
            [row[f"epoch/{name}"] for row in rows], workers[0][name], rtol=1e-6, err_msg=name
        )

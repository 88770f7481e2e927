"""LARS in two real processes under MultiWorkerMirroredStrategy."""

import contextlib
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import golden
import keras
import numpy as np
import pytest
import tensorflow as tf
import two_workers

from tf_lars.optimizer import LARS

SECONDS = 300


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """The results of both workers, as dicts of arrays."""
    folder = tmp_path_factory.mktemp("workers")
    cluster = {"worker": [f"127.0.0.1:{port}" for port in _free_ports(2)]}
    root = pathlib.Path(__file__).resolve().parents[2]
    processes, logs = [], []
    try:
        for index in range(2):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps(task),
                "CUDA_VISIBLE_DEVICES": "-1",
                "PYTHONPATH": str(root),
            }
            logs.append(folder / f"worker{index}.log")
            with logs[-1].open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, two_workers.__file__, str(folder)],
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        deadline = time.monotonic() + SECONDS
        for process, log in zip(processes, logs, strict=True):
            code = process.wait(timeout=max(deadline - time.monotonic(), 1))
            assert code == 0, log.read_text()[-4000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = []
    for index in range(2):
        with np.load(folder / f"worker{index}.npz") as file:
            results.append(dict(file))
    return results


def test_both_workers_have_the_same_weights(workers):
    first, second = workers
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@golden.needs_golden
@pytest.mark.parametrize("config", golden.configs())
def test_golden(workers, config):
    kept = golden.manifest()["kept_steps"]
    for position, step in enumerate(kept):
        for name in golden.names():
            value = workers[0][f"golden|{config}|{step}|{name}"]
            reference = golden.arrays()[f"{config}|f64|{name}"][position]
            error = golden.relative_error(value, reference)
            assert error <= golden.TOLERANCE, (name, step, error)


@pytest.mark.parametrize("name", two_workers.SETTINGS)
def test_two_workers_equal_one_with_the_sum(workers, name):
    variables = [keras.Variable(w) for w in two_workers.weights()]
    optimizer = LARS(1.0, **two_workers.SETTINGS[name])
    for step in range(two_workers.STEPS):
        shares = [two_workers.gradients(worker, step) for worker in range(2)]
        optimizer.apply([tf.constant(a + b) for a, b in zip(*shares, strict=True)], variables)
    for i, variable in enumerate(variables):
        value = workers[0][f"settings|{name}|{i}"]
        np.testing.assert_allclose(value, variable, rtol=1e-6, atol=1e-6)


def test_sparse_gradients_are_summed_over_the_workers(workers):
    table = keras.Variable(np.ones((4, 2), np.float32))
    total = tf.constant([[3.0, 3.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    LARS(1.0, weight_decay=0.01).apply([total], [table])
    np.testing.assert_allclose(workers[0]["sparse"], table, rtol=1e-6)


def test_an_inf_on_one_worker_skips_the_step_on_both(workers):
    for worker in workers:
        assert list(worker["loss_scale|scales"]) == [64, 32, 32, 16, 16, 16]
        assert worker["loss_scale|iterations"] == 4
        kernels = worker["loss_scale|kernels"]
        assert np.isfinite(kernels).all()
        moved = [bool((a != b).any()) for a, b in itertools.pairwise(kernels)]
        assert moved == [False, True, False, True, True]

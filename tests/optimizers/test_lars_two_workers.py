"""LARS in two real processes under MultiWorkerMirroredStrategy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import golden, optimizer_two_workers, two_processes
from tf_lars.optimizers.lars import LARS


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Returns the results of both workers, as dicts of arrays."""
    return two_processes.run(
        "tests.helpers.optimizer_two_workers", tmp_path_factory.mktemp("workers")
    )


def test_both_workers_have_the_same_weights(workers):
    first, second = workers
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@pytest.mark.parametrize("config", golden.configs())
def test_golden(workers, config):
    kept = golden.manifest()["kept_steps"]
    for position, step in enumerate(kept):
        for name in golden.names():
            value = workers[0][f"golden|{config}|{step}|{name}"]
            reference = golden.arrays()[f"{config}|f64|{name}"][position]
            error = golden.relative_error(value, reference)
            assert error <= golden.TOLERANCE, (name, step, error)


@pytest.mark.parametrize("name", optimizer_two_workers.SETTINGS)
def test_two_workers_equal_one_with_the_sum(workers, name):
    variables = [keras.Variable(w) for w in optimizer_two_workers.weights()]
    optimizer = LARS(1.0, **optimizer_two_workers.SETTINGS[name])
    for step in range(optimizer_two_workers.STEPS):
        shares = [optimizer_two_workers.gradients(worker, step) for worker in range(2)]
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

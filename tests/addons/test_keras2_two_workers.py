"""tf_lars.keras2.LARS in two real processes."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import addons_two_workers, golden, two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    return two_processes.run("tests.helpers.addons_two_workers", tmp_path_factory.mktemp("workers"))


def test_both_workers_have_the_same_weights(workers):
    for key, value in workers[0].items():
        np.testing.assert_array_equal(value, workers[1][key], err_msg=key)


def test_fit_equals_one_worker_with_the_whole_batch(workers):
    alone = addons_two_workers.fit(tf.distribute.OneDeviceStrategy("CPU:0"), 16)
    for i, weights in enumerate(alone):
        np.testing.assert_allclose(workers[0][f"fit|{i}"], weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", golden.configs())
def test_golden(workers, config):
    for name in golden.names():
        reference = golden.arrays()[f"{config}|f64|{name}"][-1]
        error = golden.relative_error(workers[0][f"golden|{config}|{name}"], reference)
        assert error <= golden.TOLERANCE, (name, error)

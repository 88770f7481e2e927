"""`Trainer.fit` takes what Keras's `fit` takes, and gives the same on any number of replicas."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import fit_cases, two_processes
from tests.helpers.fit_cases import Cases


@pytest.fixture(scope="module")
def expected():
    """Returns a function from a case to the results of Keras's `fit` on one device."""
    return functools.cache(Cases(tf.distribute.get_strategy(), by_keras=True).run)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Results of both workers by case."""
    return two_processes.run("tests.helpers.fit_cases", tmp_path_factory.mktemp("workers"))


def _check(results, keras_results):
    assert results.keys() == keras_results.keys()
    for name, value in keras_results.items():
        tolerance = 1e-6 if name.startswith("w") else 1e-5
        np.testing.assert_allclose(results[name], value, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("case", fit_cases.ALL)
def test_one_device_trains_like_keras(case, expected):
    _check(Cases(tf.distribute.get_strategy()).run(case), expected(case))


@pytest.mark.parametrize("case", fit_cases.ALL)
@pytest.mark.slow
def test_two_replicas_train_like_keras_on_one(case, mirrored, expected):
    _check(Cases(mirrored).run(case), expected(case))


@pytest.mark.parametrize("case", fit_cases.ALL)
@pytest.mark.slow
def test_two_workers_train_like_keras_on_one(case, two_workers, expected):
    for worker in two_workers:
        results = {n.partition("|")[2]: v for n, v in worker.items() if n.startswith(f"{case}|")}
        _check(results, expected(case))

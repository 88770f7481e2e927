"""LARS in the wrappers of tensorflow-addons, and compared with its LAMB."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import addons_stack
from tests.helpers.addons_stack import LARS, keras
from tests.helpers.numpy_lars import NumpyLars

tfa = pytest.importorskip("tensorflow_addons", reason="tensorflow-addons needs its own environment")

ARGUMENTS = {"weight_decay": 1e-2, "trust_coefficient": 0.05}


def _gradients(steps):
    rng = np.random.default_rng(1)
    return [np.float32(rng.standard_normal((3, 4))) for _ in range(steps)]


def _weights():
    return np.float32(np.random.default_rng(0).standard_normal((3, 4)))


def _run(optimizer, gradients, eager):
    variable = tf.Variable(_weights())

    def step(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    if not eager:
        step = tf.function(step)
    for gradient in gradients:
        step(tf.constant(gradient))
    return variable


@pytest.fixture(params=[True, False], ids=["eager", "graph"])
def eager(request):
    return request.param


def test_moving_average(eager):
    optimizer = tfa.optimizers.MovingAverage(LARS(0.5, **ARGUMENTS), average_decay=0.8)
    variable = _run(optimizer, _gradients(5), eager)
    model = NumpyLars(_weights(), **ARGUMENTS)
    average = model.weights
    for gradient in _gradients(5):
        average = 0.8 * average + 0.2 * model.step(gradient, 0.5)
    np.testing.assert_allclose(variable, model.weights, rtol=1e-5)
    optimizer.assign_average_vars([variable])
    np.testing.assert_allclose(variable, average, rtol=1e-5)


def test_lookahead(eager):
    optimizer = tfa.optimizers.Lookahead(LARS(0.5, **ARGUMENTS), sync_period=3, slow_step_size=0.4)
    variable = _run(optimizer, _gradients(7), eager)
    model = NumpyLars(_weights(), **ARGUMENTS)
    slow = model.weights
    for step, gradient in enumerate(_gradients(7)):
        fast = model.step(gradient, 0.5)
        if step % 3 == 2:
            model.weights = slow = slow + 0.4 * (fast - slow)
    np.testing.assert_allclose(variable, model.weights, rtol=1e-5)


def test_stochastic_weight_averaging(eager):
    optimizer = tfa.optimizers.SWA(LARS(0.5, **ARGUMENTS), start_averaging=2, average_period=2)
    variable = _run(optimizer, _gradients(7), eager)
    model = NumpyLars(_weights(), **ARGUMENTS)
    snapshots = []
    for step, gradient in enumerate(_gradients(7)):
        weights = model.step(gradient, 0.5)
        if step >= 2 and (step - 2) % 2 == 0:
            snapshots.append(weights)
    optimizer.assign_average_vars([variable])
    np.testing.assert_allclose(variable, np.mean(snapshots, axis=0), rtol=1e-5)


@pytest.mark.parametrize("wrapper", ["MovingAverage", "Lookahead", "SWA"])
def test_sparse_gradients_in_a_wrapper(wrapper):
    slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 3]), tf.constant([4, 2]))
    total = tf.constant([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    variables = []
    for gradient in (slices, total):
        variables.append(tf.Variable(tf.ones((4, 2))))
        optimizer = getattr(tfa.optimizers, wrapper)(LARS(1.0, weight_decay=0.1))
        optimizer.apply_gradients([(gradient, variables[-1])])
    np.testing.assert_allclose(*variables, rtol=1e-6)


@pytest.mark.parametrize("wrapper", ["MovingAverage", "Lookahead", "SWA"])
def test_fit_save_and_load_in_a_wrapper(wrapper, tmp_path):
    x, y = addons_stack.data()
    optimizer = getattr(tfa.optimizers, wrapper)(
        LARS(2.0, excluded_learning_rate_multiplier=0.05, **ARGUMENTS)
    )
    model, history = addons_stack.train(optimizer, x, y, epochs=15)
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    inner = keras.models.load_model(tmp_path / "model.keras").optimizer._optimizer
    assert isinstance(inner, LARS)
    assert inner.get_config() == optimizer._optimizer.get_config()


def test_lars_learns_what_lamb_learns():
    x, y = addons_stack.data(256)
    lars = LARS(4.0, excluded_learning_rate_multiplier=0.02, weight_decay=1e-4)
    lamb = tfa.optimizers.LAMB(0.02, weight_decay=1e-4)
    accuracies = [addons_stack.train(o, x, y, epochs=40)[1]["accuracy"][-1] for o in (lars, lamb)]
    assert min(accuracies) > 0.9, accuracies

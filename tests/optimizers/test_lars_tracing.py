"""Retracing, and the cost of layer statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.layer_statistics import LayerStatistics
from tf_lars.schedules import WarmupConstant, WarmupCosine, WarmupPolynomial, WarmupStep

ONES = np.ones((2, 2), np.float32)


def _traced(optimizer, variable):
    traces = []
    optimizer.build([variable])

    @tf.function
    def step(gradient):
        traces.append(1)
        optimizer.apply([gradient], [variable])

    return step, traces


def test_another_learning_rate_retraces_nothing():
    optimizer, variable = LARS(1.0), keras.Variable(ONES)
    step, traces = _traced(optimizer, variable)
    moves = []
    for rate in (1.0, 2.0, 0.5, 0.0):
        optimizer.learning_rate = rate
        before = variable.numpy()
        optimizer._velocities[0].assign(tf.zeros((2, 2)))
        step(tf.constant(ONES))
        moves.append((before - variable.numpy())[0, 0] / before[0, 0])
    assert len(traces) == 1
    np.testing.assert_allclose(moves, [0.001, 0.002, 0.0005, 0.0], rtol=1e-3)


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupPolynomial(peak_learning_rate=1.0, total_steps=8, warmup_steps=3),
        WarmupCosine(peak_learning_rate=1.0, total_steps=8, warmup_steps=3),
        WarmupStep(peak_learning_rate=1.0, boundaries=[4, 6], warmup_steps=3),
        WarmupConstant(peak_learning_rate=1.0, warmup_steps=3),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_retraces_nothing(schedule):
    optimizer, variable = LARS(schedule, momentum=0.0), keras.Variable(ONES)
    step, traces = _traced(optimizer, variable)
    for s in range(10):
        before = variable.numpy()[0, 0]
        step(tf.constant(ONES))
        moved = (before - variable.numpy()[0, 0]) / before
        np.testing.assert_allclose(moved, 0.001 * float(schedule(s)), rtol=1e-2, atol=1e-6)
    assert len(traces) == 1


def _operations(optimizer):
    """Returns the types of the operations in one step of a kernel and a bias."""
    variables = [keras.Variable(ONES), keras.Variable(np.ones(2, np.float32))]
    optimizer.build(variables)
    step = tf.function(lambda *g: optimizer.apply(g, variables))
    graph = step.get_concrete_function(*map(tf.constant, (ONES, ONES[0]))).graph
    return [operation.type for operation in graph.get_operations()]


def test_norms_are_computed_for_adapted_variables_alone():
    assert _operations(LARS(1.0, weight_decay=1e-4)).count("L2Loss") == 2


def test_unasked_statistics_add_no_operation():
    asked = LARS(1.0)
    asked.record_layer_statistics()
    unasked = LARS(1.0)
    with_statistics, without = _operations(asked), _operations(unasked)
    assert without.count("L2Loss") == 2
    assert with_statistics.count("L2Loss") == 6
    # The kernels assign weights and velocities; Keras assigns the iteration.
    assert without.count("AssignVariableOp") == 1
    assert with_statistics.count("AssignVariableOp") == 3
    with pytest.raises(InputError, match=r"Call `record_layer_statistics\(\)`"):
        unasked.layer_statistics()


@pytest.mark.parametrize("before_build", [True, False])
def test_statistics_of_the_last_step(before_build):
    kernel = keras.Variable(3 * ONES, name="kernel")
    bias = keras.Variable(np.ones(4, np.float32), name="bias")
    optimizer = LARS(1.0, weight_decay=0.5, exclude_from_weight_decay=[])
    if before_build:
        optimizer.record_layer_statistics()
    optimizer.build([kernel, bias])
    state = len(optimizer.variables)
    if not before_build:
        optimizer.record_layer_statistics()
    assert len(optimizer.variables) == state
    assert not any("record" in name for name in optimizer._trackable_children())

    optimizer.apply([tf.constant(ONES), tf.constant(2 * ONES[0].repeat(2))], [kernel, bias])
    statistics = optimizer.layer_statistics()
    assert set(statistics) == {kernel.path, bias.path}
    assert statistics[kernel.path] == LayerStatistics(pytest.approx(0.001 * 6 / (2 + 3)), 6.0, 2.0)
    assert statistics[bias.path] == LayerStatistics(1.0, 2.0, 4.0)


def test_statistics_of_the_other_norms():
    for arguments in ({"trust_norm": "combined"}, {"momentum_form": "popular"}):
        variable = keras.Variable(3 * ONES)
        optimizer = LARS(1.0, weight_decay=0.5, **arguments)
        optimizer.record_layer_statistics()
        optimizer.apply([tf.constant(ONES)], [variable])
        ratio = pytest.approx(0.001 * 6 / 5)
        assert optimizer.layer_statistics()[variable.path] == LayerStatistics(ratio, 6.0, 2.0)

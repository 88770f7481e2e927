import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.loss_scale import LossScaleOptimizer

ONES = np.ones((2, 2), np.float32)


def _replica_step(strategy, optimizer, variable):
    """Returns a function of one gradient per replica."""

    @tf.function
    def step(first, second):
        def replica_step():
            context = tf.distribute.get_replica_context()
            optimizer.apply(
                [tf.where(tf.equal(context.replica_id_in_sync_group, 0), first, second)], [variable]
            )

        strategy.run(replica_step)

    return step


def _locals(strategy, variable):
    return [v.numpy() for v in strategy.experimental_local_results(variable.value)]


@pytest.mark.parametrize("inner", [LARS, keras.optimizers.SGD])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("replica", [0, 1])
def test_one_bad_replica_skips_the_step_on_both(mirrored, inner, bad, replica):
    with mirrored.scope():
        variable = keras.Variable(ONES)
        optimizer = LossScaleOptimizer(inner(1.0), initial_scale=16.0)
        optimizer.build([variable])
    step = _replica_step(mirrored, optimizer, variable)

    gradients = [ONES.copy(), ONES.copy()]
    gradients[replica][1, 0] = bad
    step(*gradients)
    for local in _locals(mirrored, variable):
        np.testing.assert_array_equal(local, ONES)
    assert [float(s) for s in _locals(mirrored, optimizer.dynamic_scale)] == [8.0, 8.0]
    assert optimizer.iterations.numpy() == 0

    step(8 * ONES, 8 * ONES)
    first, second = _locals(mirrored, variable)
    np.testing.assert_array_equal(first, second)
    expected = 1 - 0.001 * 2 / 4 * 2 if inner is LARS else -1.0
    np.testing.assert_allclose(first, np.full((2, 2), expected), rtol=1e-6)
    assert optimizer.iterations.numpy() == 1


def test_the_scale_doubles_after_enough_finite_steps(mirrored):
    with mirrored.scope():
        variable = keras.Variable(ONES)
        optimizer = LossScaleOptimizer(LARS(0.1), initial_scale=2.0, dynamic_growth_steps=2)
        optimizer.build([variable])
    step = _replica_step(mirrored, optimizer, variable)
    for _ in range(4):
        step(ONES, ONES)
    assert [float(s) for s in _locals(mirrored, optimizer.dynamic_scale)] == [8.0, 8.0]


def test_the_sum_is_taken_once(mirrored):
    with mirrored.scope():
        scaled, plain = keras.Variable(ONES), keras.Variable(ONES)
        optimizer = LossScaleOptimizer(LARS(1.0, clipnorm=0.1), initial_scale=4.0)
        reference = LARS(1.0, clipnorm=0.1)
        optimizer.build([scaled])
        reference.build([plain])
    _replica_step(mirrored, optimizer, scaled)(4 * ONES, 12 * ONES)
    _replica_step(mirrored, reference, plain)(ONES, 3 * ONES)
    np.testing.assert_allclose(scaled, plain, rtol=1e-7)


@pytest.mark.parametrize("eager", [True, False])
def test_compile_wraps_it_no_further_and_trains_in_float16(eager):
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, dtype=policy), keras.layers.Dense(1)]
    )
    optimizer = LossScaleOptimizer(
        LARS(5.0, excluded_learning_rate_multiplier=0.01), initial_scale=2.0**30
    )
    model.compile(optimizer, "mse", run_eagerly=eager, jit_compile=False)
    assert model.optimizer is optimizer
    x = np.random.default_rng(0).standard_normal((64, 4))
    history = model.fit(x, x[:, :1], epochs=4, batch_size=16, verbose=0).history["loss"]
    # float16 ends at 65504: the first steps overflow, are skipped, and bring the scale down.
    assert float(optimizer.dynamic_scale) < 2.0**30
    assert 0 < int(optimizer.iterations) < 16
    assert history[-1] < history[0]


def test_jit_compile_skips_and_goes_on():
    variable = keras.Variable(ONES)
    optimizer = LossScaleOptimizer(LARS(1.0), initial_scale=16.0)
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply([g], [variable]), jit_compile=True)
    step(tf.constant(ONES * np.inf))
    np.testing.assert_array_equal(variable, ONES)
    step(tf.constant(ONES))
    assert float(optimizer.dynamic_scale) == 8.0
    assert np.all(variable.numpy() < ONES)


def test_sparse_gradients_and_variables_without_gradient():
    table, unused = keras.Variable(np.ones((3, 2), np.float32)), keras.Variable(ONES)
    optimizer = LossScaleOptimizer(LARS(1.0), initial_scale=4.0)
    optimizer.build([table, unused])
    slices = tf.IndexedSlices(4 * tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([3, 2]))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([slices, None], [table, unused])
    reference = keras.Variable(np.ones((3, 2), np.float32))
    LARS(1.0).apply([tf.constant([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]])], [reference])
    np.testing.assert_allclose(table, reference, rtol=1e-7)
    np.testing.assert_array_equal(unused, ONES)


def test_serialization():
    inner = LARS(0.5, weight_decay=1e-4, clipnorm=1.0)
    optimizer = LossScaleOptimizer(inner, initial_scale=3.0, dynamic_growth_steps=2)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(restored, LossScaleOptimizer)
    assert isinstance(restored.inner_optimizer, LARS)
    assert restored.get_config() == optimizer.get_config()

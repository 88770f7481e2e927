"""Zero norms, extreme scales, 16-bit variables and sparse gradients."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.numpy_lars import NumpyLars
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.lars_rule import (
    MOMENTUM_FORMS,
    TRUST_NORMS,
    clip_by_global_norm,
    clip_by_norm,
    l2_norm,
)


def _apply(optimizer, weights, gradient, dtype="float32"):
    variable = keras.Variable(weights, dtype=dtype)
    optimizer.apply([gradient], [variable])
    return variable


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("value", "count"), [(10.0, 1000), (300.0, 1000), (1e-4, 100)])
def test_norms_of_16_bit_tensors_are_float32(dtype, value, count):
    x = tf.cast(tf.fill([count], value), dtype)
    norm = l2_norm(x)
    assert norm.dtype == tf.float32
    np.testing.assert_allclose(norm, float(x[0]) * count**0.5, rtol=1e-5)


def test_norms_of_float64_tensors_are_float64():
    norm = l2_norm(tf.constant([3e200, 4e-200], tf.float64) * 1e-100)
    np.testing.assert_allclose(norm, 3e100, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", MOMENTUM_FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_16_bit_variables_follow_the_float64_model(dtype, form, momentum, nesterov):
    rng = np.random.default_rng(3)
    arguments = {
        "momentum": momentum,
        "nesterov": nesterov,
        "momentum_form": form,
        "weight_decay": 1e-2,
        "trust_coefficient": 0.02,
    }
    start = tf.cast(rng.standard_normal((8, 8)), dtype)
    variable = keras.Variable(start, dtype=dtype)
    model = NumpyLars(tf.cast(start, tf.float64).numpy(), **arguments)
    optimizer = LARS(0.5, **arguments)
    for _ in range(4):
        gradient = tf.cast(1e-3 * rng.standard_normal((8, 8)), dtype)
        optimizer.apply([gradient], [variable])
        model.step(tf.cast(gradient, tf.float64), 0.5)
    if momentum:
        assert optimizer._velocities[0].dtype == "float32"
    precision = 2.0**-10 if dtype == "float16" else 2.0**-7
    actual = tf.cast(variable.value, tf.float64).numpy()
    np.testing.assert_allclose(actual, model.weights, rtol=2 * precision, atol=2 * precision)


def test_a_float16_step_far_below_its_smallest_number_is_not_lost():
    # a*r = 1e-9 is 0 in float16; the step a*r*g = 1e-5 is not.
    weights, gradient = np.full((2, 2), 1e-2), tf.fill([2, 2], tf.constant(1e4, tf.float16))
    variable = _apply(LARS(1.0), weights, gradient, "float16")
    np.testing.assert_allclose(variable.numpy(), 1e-2 - 1e-5, rtol=1e-3)


def test_float64_variables_keep_their_precision():
    rng = np.random.default_rng(0)
    weights, gradient = rng.standard_normal((2, 3, 4))
    variable = _apply(LARS(0.1, weight_decay=1e-4), weights, tf.constant(gradient), "float64")
    expected = NumpyLars(weights, weight_decay=1e-4).step(gradient, np.float32(0.1))
    np.testing.assert_allclose(variable, expected, rtol=1e-14)


@pytest.mark.parametrize("norm", TRUST_NORMS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_zero_norm_means_the_raw_rate_and_decay_still_applies(norm, clip):
    arguments = {"trust_norm": norm, "clip_trust_ratio": clip, "weight_decay": 0.5, "momentum": 0.0}
    ratio = 1 / 4 if clip else 1.0
    variable = _apply(LARS(4.0, **arguments), np.zeros((2, 2)), tf.ones((2, 2)))
    np.testing.assert_allclose(variable, np.full((2, 2), -4.0 * ratio))
    variable = _apply(LARS(4.0, **arguments), np.zeros((2, 2)), tf.zeros((2, 2)))
    np.testing.assert_array_equal(variable, np.zeros((2, 2)))
    variable = _apply(LARS(4.0, **arguments), np.ones((2, 2)), tf.zeros((2, 2)))
    if norm == "separate":
        np.testing.assert_allclose(variable, np.full((2, 2), 1 - 4.0 * ratio * 0.5))
    else:  # u = b*w is not zero: r = 0.001*|w|/(0.5*|w|)
        np.testing.assert_allclose(
            variable, np.full((2, 2), 1 - 4.0 * 0.002 * ratio * 0.5), rtol=1e-6
        )


@pytest.mark.parametrize("form", MOMENTUM_FORMS)
def test_a_rate_of_zero_moves_nothing(form):
    optimizer = LARS(0.0, momentum_form=form, clip_trust_ratio=True, weight_decay=1e-3)
    variable = _apply(optimizer, np.ones((2, 2)), tf.ones((2, 2)))
    np.testing.assert_array_equal(variable, np.ones((2, 2)))


def test_a_zero_epsilon_is_honoured():
    tiny = tf.fill([2, 2], 1e-9)
    variable = _apply(LARS(1.0, epsilon=0.0), np.ones((2, 2)), tiny)
    np.testing.assert_allclose(variable, np.full((2, 2), 0.999), rtol=1e-6)
    variable = _apply(LARS(1.0, epsilon=1e-7), np.ones((2, 2)), tiny)
    assert np.all(variable.numpy() > 0.9999)


@pytest.mark.parametrize("form", MOMENTUM_FORMS)
@pytest.mark.parametrize("clip", [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_sparse_gradient_is_the_dense_one_it_stands_for(form, clip, jit_compile):
    arguments = {"momentum_form": form, "weight_decay": 1e-2, **clip}
    weights = np.float32(np.random.default_rng(0).standard_normal((5, 2)))
    sparse_table, dense_table = keras.Variable(weights), keras.Variable(weights)
    sparse, dense = LARS(1.0, **arguments), LARS(1.0, **arguments)
    sparse.build([sparse_table])
    step = tf.function(lambda g: sparse.apply([g], [sparse_table]), jit_compile=jit_compile)
    for rows in ([1, 3, 1], [0, 0, 0]):
        values = np.float32([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        total = np.zeros((5, 2), np.float32)
        np.add.at(total, rows, values)
        step(tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([5, 2])))
        dense.apply([tf.constant(total)], [dense_table])
    np.testing.assert_allclose(sparse_table, dense_table, rtol=1e-6, atol=1e-7)


def test_an_embedding_trains_as_with_the_dense_gradient():
    def train(make):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [make(), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
        )
        model.compile(LARS(1.0, weight_decay=1e-3), "mse", jit_compile=False)
        tokens = np.random.default_rng(0).integers(0, 7, (16, 4))
        model.fit(tokens, np.ones((16, 1)), batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    class Dense(keras.layers.Embedding):
        def call(self, tokens):
            return keras.ops.matmul(keras.ops.one_hot(tokens, 7), self.embeddings)

    sparse, dense = train(lambda: keras.layers.Embedding(7, 3)), train(lambda: Dense(7, 3))
    for one, other in zip(sparse, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_clipping_of_float16_gradients_has_float32_norms():
    big = tf.fill([1000], tf.constant(1000.0, tf.float16))
    clipped = clip_by_norm(big, 10.0)
    assert clipped.dtype == tf.float16
    np.testing.assert_allclose(tf.norm(tf.cast(clipped, tf.float32)), 10.0, rtol=1e-3)
    for gradient in clip_by_global_norm([big, tf.cast(big, tf.float32)], 10.0):
        norm = tf.norm(tf.cast(gradient, tf.float32))
        np.testing.assert_allclose(norm, 10.0 / 2**0.5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_bits_do_not_depend_on_the_order_in_which_tensorflow_rewrites_the_graph(dtype):
    # TensorFlow turns a sum of three terms into one operation, in an order that differs between
    # traces and between workers.
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 8))
    gradients = tf.cast(0.1 * rng.standard_normal((5, 4, 3, 8)), dtype)

    def train():
        pairs = []
        for form, norm, nesterov in itertools.product(MOMENTUM_FORMS, TRUST_NORMS, [False, True]):
            optimizer = LARS(
                5.0,
                weight_decay=0.01,
                epsilon=1e-3,
                nesterov=nesterov,
                momentum_form=form,
                trust_norm=norm,
            )
            variables = [keras.Variable(w, dtype=dtype) for w in weights]
            optimizer.build(variables)
            pairs.append((optimizer, variables))

        @tf.function
        def step(gradients):
            for optimizer, variables in pairs:
                optimizer.apply(gradients, variables)

        for gradient in gradients:
            step(tf.unstack(gradient))
        # A difference in the last bit of the ratio shows in the velocity immediately.
        return [v.numpy() for optimizer, _ in pairs for v in optimizer.variables]

    first = train()
    for _ in range(5):
        for one, other in zip(first, train(), strict=True):
            np.testing.assert_array_equal(one, other)

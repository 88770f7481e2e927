"""Two replicas, on logical CPUs, equal one replica with the sum of their gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS
from tf_lars.schedules import WarmupPolynomial

SHAPES = ((4, 3), (3,), (3, 2, 2))


def _values(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.float32(scale * rng.standard_normal(shape)) for shape in SHAPES]


def _variables():
    return [keras.Variable(w, name=f"w{i}") for i, w in enumerate(_values(0))]


def _run(strategy, optimizer, variables, gradients_of_replicas):
    """Takes steps in a tf.function, with different gradients on each replica."""

    @tf.function
    def step(*flat):
        replicas = [flat[i::2] for i in range(2)]

        def replica_step():
            first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
            optimizer.apply(
                [tf.where(first, a, b) for a, b in zip(*replicas, strict=True)], variables
            )

        strategy.run(replica_step)

    for pair in gradients_of_replicas:
        step(*(tf.constant(g) for both in zip(*pair, strict=True) for g in both))


def _compare(strategy, make, steps=6, tolerance=1e-6, scale=0.3):
    """Compares training on two replicas and on one; returns both optimizers and variables."""
    pairs = [(_values(2 * s + 1, scale), _values(2 * s + 2, scale)) for s in range(steps)]
    with strategy.scope():
        variables = _variables()
        optimizer = make()
        optimizer.build(variables)
    _run(strategy, optimizer, variables, pairs)

    alone = _variables()
    reference = make()
    for first, second in pairs:
        reference.apply([tf.constant(a + b) for a, b in zip(first, second, strict=True)], alone)
    for variable, expected in zip(variables, alone, strict=True):
        for local in strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(local, expected, rtol=tolerance, atol=tolerance)
    return (optimizer, variables), (reference, alone)


@pytest.mark.parametrize("form", ["classic", "torch", "contrib", "popular"])
def test_two_replicas_equal_one_under_a_schedule(mirrored, form):
    schedule = WarmupPolynomial(peak_learning_rate=2.0, total_steps=6, warmup_steps=2)
    _compare(mirrored, lambda: LARS(schedule, weight_decay=1e-3, momentum_form=form))


@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.05}])
def test_clipping_acts_on_the_sum_over_the_replicas(mirrored, clip):
    # Not adapted, because adaptation would cancel the effect of clipping.
    _compare(mirrored, lambda: LARS(0.5, exclude_from_layer_adaptation=[""], **clip))


def test_opposite_gradients_are_not_clipped(mirrored):
    with mirrored.scope():
        variable = keras.Variable(np.ones((2, 2), np.float32))
        optimizer = LARS(1.0, momentum=0.0, clipnorm=1.0, exclude_from_layer_adaptation=[""])
        optimizer.build([variable])
    big = np.full((2, 2), 100.0, np.float32)
    _run(mirrored, optimizer, [variable], [([big], [np.float32(0.1) - big])])
    np.testing.assert_allclose(variable, np.full((2, 2), 0.9), atol=1e-5)


def test_moving_average_overwrites_the_weights_on_every_replica(mirrored):
    def make():
        return LARS(1.0, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3)

    (optimizer, _), (reference, _) = _compare(mirrored, make, steps=7)
    averages = zip(
        optimizer._model_variables_moving_average,
        reference._model_variables_moving_average,
        strict=True,
    )
    for average, expected in averages:
        for local in mirrored.experimental_local_results(average.value):
            np.testing.assert_allclose(local, expected, rtol=1e-6, atol=1e-6)


def test_accumulation_with_several_replicas_names_the_trainer(mirrored):
    with mirrored.scope():
        optimizer = LARS(1.0, gradient_accumulation_steps=2)
        with pytest.raises(InputError, match=r"Received: .* 2 replicas.*Trainer\(micro_batch_size"):
            optimizer.build(_variables())


def test_accumulation_with_one_mirrored_replica():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variables = _variables()
        optimizer = LARS(1.0, gradient_accumulation_steps=2, use_ema=True)
        optimizer.build(variables)
    alone = _variables()
    reference = LARS(1.0, use_ema=True)

    @tf.function
    def step(*gradients):
        strategy.run(lambda: optimizer.apply(gradients, variables))

    for s in range(3):
        first, second = _values(2 * s), _values(2 * s + 1)
        step(*first)
        step(*second)
        mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        reference.apply(list(map(tf.constant, mean)), alone)
    for variable, expected in zip(variables, alone, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-6, atol=1e-6)


def test_sparse_gradients_of_two_replicas_are_summed(mirrored):
    with mirrored.scope():
        table = keras.Variable(np.ones((4, 2), np.float32))
        optimizer = LARS(1.0, weight_decay=0.01, exclude_from_layer_adaptation=[])
        optimizer.build([table])

    @tf.function
    def step():
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = tf.gather([[0, 0], [0, 2]], replica)
            slices = tf.IndexedSlices(tf.ones((2, 2)), rows, tf.constant([4, 2]))
            optimizer.apply([slices], [table])

        mirrored.run(replica_step)

    step()
    alone = keras.Variable(np.ones((4, 2), np.float32))
    dense = LARS(1.0, weight_decay=0.01, exclude_from_layer_adaptation=[])
    dense.apply([tf.constant([[3.0, 3.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])], [alone])
    np.testing.assert_allclose(table, alone, rtol=1e-6)


def test_model_fit_equals_one_replica(mirrored):
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((32, 5)))
    y = rng.integers(0, 3, 32)

    def train(scope):
        keras.utils.set_random_seed(1)
        with scope:
            model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(LARS(0.5, weight_decay=1e-3), loss, jit_compile=False)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    for two, one in zip(train(mirrored.scope()), train(tf.device("CPU:0")), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)


def test_statistics_are_those_of_the_sum(mirrored):
    with mirrored.scope():
        variables = _variables()
        optimizer = LARS(1.0)
        optimizer.record_layer_statistics()
        optimizer.build(variables)
    pair = _values(1), _values(2)
    norms = [np.linalg.norm(a + b) for a, b in zip(*pair, strict=True)]
    _run(mirrored, optimizer, variables, [pair])
    read = [s.gradient_norm for s in optimizer.layer_statistics().values()]
    np.testing.assert_allclose(read, norms, rtol=1e-6)

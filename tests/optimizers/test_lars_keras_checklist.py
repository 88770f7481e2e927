"""Keras's own tests of optimizers, applied to LARS."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars.optimizers.lars import LARS
from tf_lars.schedules import WarmupPolynomial

ONES = np.ones((2, 2), np.float32)


def _train(optimizer, variable, steps):
    for step in range(steps):
        optimizer.apply([tf.constant(ONES * (step + 1))], [variable])


def test_config_round_trip():
    schedule = WarmupPolynomial(peak_learning_rate=2.0, total_steps=10, warmup_steps=2)
    optimizer = LARS(
        schedule,
        momentum=0.8,
        weight_decay=1e-4,
        trust_coefficient=0.02,
        epsilon=1e-6,
        nesterov=True,
        momentum_form="torch",
        trust_norm="combined",
        clip_trust_ratio=True,
        exclude_from_weight_decay=["bias"],
        exclude_from_layer_adaptation=[],
        excluded_learning_rate_multiplier=0.5,
        global_clipnorm=3.0,
        use_ema=True,
        name="mine",
    )
    config = optimizer.get_config()
    restored = LARS.from_config(config)
    assert restored.get_config() == config
    assert isinstance(restored._learning_rate, WarmupPolynomial)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == config


def test_single_step():
    variable = keras.Variable(np.array([[3.0, 4.0]], np.float32))
    optimizer = LARS(learning_rate=2.0, weight_decay=0.1)
    optimizer.apply([tf.constant([[1.0, 0.0]])], [variable])
    # |w| = 5, |g| = 1: r = 0.001*5/(1 + 0.1*5) = 1/300; w -= 2/300 * (1.3, 0.4)
    np.testing.assert_allclose(variable, [[3 - 2.6 / 300, 4 - 0.8 / 300]], rtol=1e-7)


def test_weight_decay_and_both_exclusions():
    optimizer = LARS(
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.5,
        trust_coefficient=0.1,
        exclude_from_weight_decay=["undecayed", "neither"],
        exclude_from_layer_adaptation=["raw", "neither"],
    )
    names = ["both", "undecayed", "raw", "neither"]
    variables = [keras.Variable(ONES, name=name) for name in names]
    optimizer.apply([tf.zeros((2, 2)) + 0.5] * 4, variables)
    expected = [1 - 0.1 * 2 / (1 + 0.5 * 2) * 1.0, 1 - 0.1 * 2 / 1 * 0.5, 0.0, 0.5]
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, ONES * value, rtol=1e-6)


def test_the_base_class_decays_nothing_more():
    variable = keras.Variable(ONES)
    optimizer = LARS(1.0, weight_decay=0.5, exclude_from_weight_decay=[""])
    optimizer.apply([tf.zeros((2, 2))], [variable])
    np.testing.assert_array_equal(variable, ONES)


def test_iterations_and_learning_rates():
    variable = keras.Variable(ONES)
    optimizer = LARS(learning_rate=1)
    _train(optimizer, variable, 2)
    assert optimizer.iterations == 2
    optimizer.learning_rate = 3
    assert float(optimizer.learning_rate) == 3.0
    assert LARS(learning_rate=np.float32(0.5)).get_config()["learning_rate"] == 0.5
    with pytest.raises(ValueError, match="learning_rate"):
        LARS(learning_rate="fast")


def test_callable_learning_rate():
    variable, expected = keras.Variable(ONES), keras.Variable(ONES)
    _train(LARS(lambda: 2.0), variable, 3)
    _train(LARS(2.0), expected, 3)
    np.testing.assert_array_equal(variable, expected)


def test_setting_a_schedule_frees_the_learning_rate_variable():
    optimizer = LARS(1.0)
    before = len(optimizer.variables)
    optimizer.learning_rate = WarmupPolynomial(peak_learning_rate=1.0, total_steps=4)
    assert len(optimizer.variables) == before - 1


def test_empty_gradients():
    one, other = keras.Variable(ONES), keras.Variable(ONES)
    optimizer = LARS(1.0)
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply([None], [one])
    optimizer = LARS(1.0)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([None, tf.constant(ONES)], [one, other])
    np.testing.assert_array_equal(one, ONES)
    assert np.all(other.numpy() < 1)


def test_clip_arguments():
    with pytest.raises(ValueError, match="Only one of `clipnorm`"):
        LARS(1.0, clipnorm=1.0, clipvalue=1.0)
    gradient = tf.constant([100.0, 100.0])
    clipped = LARS(1.0, clipnorm=1)._clip_gradients([gradient])
    np.testing.assert_allclose(clipped[0], [2**-0.5] * 2, rtol=1e-6)
    clipped = LARS(1.0, clipvalue=1)._clip_gradients([gradient])
    np.testing.assert_allclose(clipped[0], [1.0, 1.0])
    clipped = LARS(1.0, global_clipnorm=1)._clip_gradients([gradient, gradient])
    np.testing.assert_allclose(clipped, np.full((2, 2), 0.5), rtol=1e-6)
    unclipped = LARS(1.0, clipnorm=1000.0)._clip_gradients([gradient])
    np.testing.assert_array_equal(unclipped[0], gradient)


def test_clipping_shortens_the_raw_step():
    variable = keras.Variable(ONES)
    LARS(1.0, momentum=0.0, clipnorm=1.0, exclude_from_layer_adaptation=[""]).apply(
        [tf.constant(100 * ONES)], [variable]
    )
    np.testing.assert_allclose(variable, ONES * 0.5, rtol=1e-6)


def test_ema():
    variable = keras.Variable(np.array([[3.0, 4.0], [5.0, 6.0]], np.float32))
    optimizer = LARS(
        1.0,
        momentum=0.0,
        exclude_from_layer_adaptation=[""],
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=3,
    )
    start = variable.numpy()
    averages = []
    for expected in (start - 1, start - 2, start - 1.29):
        optimizer.apply([tf.constant(ONES)], [variable])
        averages.append(optimizer._model_variables_moving_average[0].numpy())
        np.testing.assert_allclose(variable, expected, rtol=1e-6)
    np.testing.assert_allclose(averages, [start - 1, start - 1.1, start - 1.29], rtol=1e-6)


def test_ema_with_model_fit():
    model = keras.Sequential([keras.layers.Dense(2, kernel_initializer="ones", use_bias=False)])
    optimizer = LARS(
        0.1, momentum=0.0, exclude_from_layer_adaptation=[""], use_ema=True, ema_momentum=0.9
    )
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(np.ones((1, 1)), np.zeros((1, 1)), batch_size=1, epochs=2, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], [[0.891, 0.891]], atol=1e-5)


def test_constraints_are_applied():
    variable = keras.Variable(-ONES)
    variable.constraint = keras.constraints.NonNeg()
    LARS(1e-4).apply([tf.zeros((2, 2))], [variable])
    np.testing.assert_array_equal(variable, np.zeros((2, 2)))


def test_static_loss_scaling():
    variable, expected = keras.Variable(ONES), keras.Variable(ONES)
    optimizer = LARS(1.0, loss_scale_factor=1024.0)
    assert optimizer.scale_loss(1.0) == 1024.0
    optimizer.apply([tf.constant(ONES * 1024)], [variable])
    LARS(1.0).apply([tf.constant(ONES)], [expected])
    np.testing.assert_array_equal(variable, expected)


def test_set_weights():
    variable = keras.Variable(ONES)
    first = LARS(1.0)
    _train(first, variable, 2)
    second = LARS(1.0)
    with pytest.raises(ValueError, match="You are calling `set_weights"):
        second.set_weights(first.variables)
    second.build([variable])
    second.set_weights(first.variables)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradient_accumulation_counts_optimizer_steps():
    seen = []

    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            seen.append(int(step))
            return 1.0 + tf.cast(step, tf.float32)

    variable, expected = keras.Variable(ONES), keras.Variable(ONES)
    optimizer = LARS(Schedule(), gradient_accumulation_steps=3)
    reference = LARS(Schedule())
    for step in range(3):
        gradients = [ONES * (step + k) for k in range(3)]
        before = variable.numpy()
        for k, gradient in enumerate(gradients):
            assert optimizer.iterations == step
            np.testing.assert_array_equal(variable, before)
            optimizer.apply([tf.constant(gradient)], [variable])
            total = np.zeros((2, 2)) if k == 2 else sum(gradients[: k + 1])
            np.testing.assert_allclose(optimizer._accumulated_gradients[0], total)
        assert set(seen) == {step}
        seen.clear()
        reference.apply([tf.constant(sum(gradients) / 3)], [expected])
        seen.clear()
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_accumulation_in_a_function(jit_compile):
    variable, expected = keras.Variable(ONES), keras.Variable(ONES)
    optimizer = LARS(1.0, gradient_accumulation_steps=2, global_clipnorm=0.1, use_ema=True)
    reference = LARS(1.0, global_clipnorm=0.1, use_ema=True)
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply([g], [variable]), jit_compile=jit_compile)
    for k in range(1, 4):
        step(tf.constant(k * ONES))
        step(tf.constant(3 * k * ONES))
        reference.apply([tf.constant(2 * k * ONES)], [expected])
    np.testing.assert_allclose(variable, expected, rtol=1e-6)
    np.testing.assert_allclose(
        optimizer._model_variables_moving_average[0],
        reference._model_variables_moving_average[0],
        rtol=1e-6,
    )


@pytest.mark.parametrize("accumulation", [None, 2])
def test_overwrite_with_gradient(accumulation):
    overwritten, trained = keras.Variable(ONES), keras.Variable(ONES)
    overwritten.overwrite_with_gradient = True
    optimizer = LARS(1.0, use_ema=True, gradient_accumulation_steps=accumulation)
    for value in (5.0, 7.0):
        gradient = tf.constant(ONES * value)
        optimizer.apply([gradient, gradient], [overwritten, trained])
    np.testing.assert_array_equal(overwritten, ONES * 7)
    assert np.all(trained.numpy() < 1)


def _model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(LARS(1.0, weight_decay=1e-3), "mse")
    return model


def test_checkpoint_restores_the_velocity(tmp_path):
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model = _model()
    model.train_on_batch(x, y)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "c"))
    model.train_on_batch(x, y)
    expected = model.get_weights()

    other = _model()
    other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    status.assert_existing_objects_matched()
    other.train_on_batch(x, y)
    for one, two in zip(expected, other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_saved_model_file_restores_the_optimizer(tmp_path):
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model = _model()
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(other.optimizer, LARS)
    for one in (model, other):
        one.train_on_batch(x, y)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_keep_the_settings(clone):
    optimizer = LARS(0.5, weight_decay=1e-4, momentum_form="torch")
    assert clone(optimizer).get_config() == optimizer.get_config()


def test_stateless_apply_is_refused_as_by_keras():
    variable = keras.Variable(ONES)
    optimizer = LARS(1.0)
    optimizer.build([variable])
    with pytest.raises(ValueError, match="not supported"):
        optimizer.stateless_apply(optimizer.variables, [tf.constant(ONES)], [variable])


def test_optimizers_are_numbered_as_keras_numbers_its_own(tmp_path):
    keras.backend.clear_session()
    first, second = LARS(1.0), LARS(1.0)
    assert [first.name, second.name, LARS(1.0, name="mine").name] == ["lars", "lars_1", "mine"]
    assert LARS.from_config(second.get_config()).name == "lars_1"
    one, other = keras.Variable(ONES), keras.Variable(ONES)
    _train(first, one, 2)
    second.build([other])
    # The names of what it restores do not matter to a checkpoint.
    path = tf.train.Checkpoint(optimizer=first, weights=one).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(optimizer=second, weights=other).read(path).assert_consumed()
    for saved, restored in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(saved, restored)


def test_a_model_saved_with_one_name_is_loaded_beside_others(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(LARS(0.1, name="lars"), "mse")
    model.fit(ONES, np.ones((2, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    LARS(1.0)
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert loaded.name == "lars"
    for saved, restored in zip(model.optimizer.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(saved, restored)

"""tf_lars.keras2.LARS: golden weights and ordinary use as a Keras 2 optimizer."""

import copy
import importlib

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import addons_stack, golden
from tests.helpers.addons_stack import LARS, keras
from tests.helpers.numpy_lars import NumpyLars
from tf_lars.errors import InputError
from tf_lars.optimizers.lars_rule import MOMENTUM_FORMS

ONES = np.ones((2, 2), np.float32)


def _variables():
    named = zip(golden.names(), golden.initial_weights(), strict=True)
    return [tf.Variable(w, name=name) for name, w in named]


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("config", golden.configs())
def test_golden(config, mode):
    variables = _variables()
    optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
    optimizer._create_all_weights(variables)

    def apply(*gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "jit")

    def take_step(gradients, rate):
        optimizer.learning_rate = rate
        apply(*map(tf.constant, gradients))

    golden.check(config, take_step, lambda: [v.numpy() for v in variables])


@pytest.mark.parametrize(("preset", "decay"), golden.PRESETS)
def test_a_preset_takes_the_steps_of_the_original(preset, decay):
    variables = _variables()
    optimizer = LARS.preset(preset, learning_rate=0.0, weight_decay=decay, momentum=0.9)
    optimizer._create_all_weights(variables)

    @tf.function
    def apply(*gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def take_step(gradients, rate):
        optimizer.learning_rate = rate
        apply(*map(tf.constant, gradients))

    golden.check_preset(preset, decay, take_step, lambda: [v.numpy() for v in variables])


@pytest.mark.parametrize("config", golden.configs())
def test_golden_with_two_replicas(config, mirrored):
    with mirrored.scope():
        variables = _variables()
        optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
        optimizer._create_all_weights(variables)

    @tf.function
    def apply(gradients):
        def replica_step():
            first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
            shares = [tf.where(first, 2.0, -1.0) * g for g in gradients]
            optimizer.apply_gradients(zip(shares, variables, strict=True))

        mirrored.run(replica_step)

    def take_step(gradients, rate):
        optimizer.learning_rate = rate
        apply(list(map(tf.constant, gradients)))

    golden.check(config, take_step, lambda: [v.numpy() for v in variables])


@pytest.mark.parametrize("form", MOMENTUM_FORMS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_equals_the_numpy_model(form, dtype):
    rng = np.random.default_rng(0)
    arguments = {"momentum_form": form, "weight_decay": 1e-2, "trust_coefficient": 0.02}
    start = tf.cast(rng.standard_normal((4, 5)), dtype)
    variable, optimizer = tf.Variable(start), LARS(0.5, **arguments)
    model = NumpyLars(start.numpy(), **arguments)
    for _ in range(3):
        gradient = tf.cast(rng.standard_normal((4, 5)), dtype)
        optimizer.apply_gradients([(gradient, variable)])
        model.step(gradient, 0.5)
    tolerance = 1e-6 if dtype == tf.float32 else 4e-3
    np.testing.assert_allclose(variable, model.weights, rtol=tolerance, atol=tolerance)


def test_compile_and_fit_with_a_schedule():
    x, y = addons_stack.data()
    schedule = keras.optimizers.schedules.PolynomialDecay(5.0, 12, power=2.0)
    optimizer = LARS(schedule, weight_decay=1e-4, excluded_learning_rate_multiplier=0.02)
    _, history = addons_stack.train(optimizer, x, y, epochs=20)
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert optimizer.iterations.numpy() == 80


def test_own_schedules_where_keras_is_keras_2():
    from tf_lars import schedules

    schedule = schedules.WarmupPolynomial(peak_learning_rate=2.0, total_steps=4, warmup_steps=2)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        with pytest.raises(InputError, match="schedule must come from the optimizer's Keras"):
            LARS(schedule)
        return
    optimizer, variable = LARS(schedule, momentum=0.0), tf.Variable(ONES)
    moves = []
    for _ in range(5):
        before = variable.numpy()[0, 0]
        optimizer.apply_gradients([(tf.constant(ONES), variable)])
        moves.append(1 - variable.numpy()[0, 0] / before)
    np.testing.assert_allclose(moves, [0, 0.001, 0.002, 0.0005, 0], rtol=1e-3, atol=1e-7)
    restored = LARS.from_config(optimizer.get_config())
    assert restored.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "saved_model"])
def test_a_saved_model_keeps_the_settings(tmp_path, name):
    if name == "model.keras" and tf.__version__.startswith("2.13."):
        pytest.skip("Keras 2.13 cannot load legacy optimizers from .keras, not even its own SGD")
    x, y = addons_stack.data()
    optimizer = LARS(0.5, weight_decay=1e-3, exclude_from_layer_adaptation=["bias"])
    optimizer.exclude_from_weight_decay(var_names=["head/"])
    model, _ = addons_stack.train(optimizer, x, y, epochs=1)
    model.save(tmp_path / name)
    restored = keras.models.load_model(tmp_path / name)
    assert isinstance(restored.optimizer, LARS)
    assert restored.optimizer.get_config() == optimizer.get_config()
    for one in (model, restored):
        one.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    # Of Keras 2's three formats, only HDF5 keeps the state of a legacy optimizer.
    if name == "model.h5":
        for one, other in zip(model.get_weights(), restored.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_checkpoint_restores_the_velocity(tmp_path):
    variable, optimizer = tf.Variable(ONES), LARS(1.0)
    optimizer.apply_gradients([(tf.constant(ONES), variable)])
    path = tf.train.Checkpoint(v=variable, o=optimizer).save(str(tmp_path / "c"))
    optimizer.apply_gradients([(tf.constant(ONES), variable)])

    other, another = tf.Variable(ONES), LARS(1.0)
    tf.train.Checkpoint(v=other, o=another).restore(path)
    another.apply_gradients([(tf.constant(ONES), other)])
    np.testing.assert_array_equal(other, variable)


def test_config_copy_and_presets():
    optimizer = LARS.preset("apex", learning_rate=2.0, momentum=0.8, clipnorm=1.0)
    optimizer.exclude_from_weight_decay([tf.Variable(ONES, name="a/kernel")])
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for one in (restored, LARS.from_config(optimizer.get_config()), copy.deepcopy(optimizer)):
        assert isinstance(one, LARS)
        assert one.get_config() == optimizer.get_config()
        assert one.rule == optimizer.rule


def test_exclusions():
    variables = [tf.Variable(ONES, name=n) for n in ("a/kernel", "b/kernel")]
    variables.append(tf.Variable(np.ones(2, np.float32), name="b/bias"))
    optimizer = LARS(1.0, momentum=0.0, weight_decay=0.5, exclude_from_weight_decay=["^a/"])
    optimizer.exclude_from_layer_adaptation([variables[1]])
    gradients = [tf.zeros_like(v) for v in variables]
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    # With zero gradients r = 1, so variables that decay are halved.
    assert [float(tf.reduce_mean(v)) for v in variables] == [1.0, 0.5, 0.5]
    with pytest.raises(InputError, match="before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["b"])
    with pytest.raises(InputError, match=r"Received: 'c/'.*'a/kernel', 'b/kernel', 'b/bias'"):
        LARS(1.0, exclude_from_weight_decay=["c/"]).apply_gradients(
            zip(gradients, variables, strict=True)
        )


def test_variables_that_get_their_first_gradient_later():
    early, late = tf.Variable(ONES, name="early"), tf.Variable(ONES, name="late")
    optimizer = LARS(1.0)
    optimizer.apply_gradients([(tf.constant(ONES), early)])
    optimizer.apply_gradients([(tf.constant(ONES), early), (tf.constant(ONES), late)])
    np.testing.assert_allclose(late, 0.999 * ONES)


@pytest.mark.parametrize("clip", [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}])
def test_sparse_gradients_equal_their_sum(clip):
    sparse, dense = tf.Variable(tf.ones((4, 2))), tf.Variable(tf.ones((4, 2)))
    slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 3]), tf.constant([4, 2]))
    total = tf.constant([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    for variable, gradient in ((sparse, slices), (dense, total)):
        optimizer = LARS(1.0, weight_decay=0.1, **clip)
        optimizer.apply_gradients([(gradient, variable)])
        optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(sparse, dense, rtol=1e-6)


def test_clipping_acts_on_the_sum_over_the_replicas(mirrored):
    with mirrored.scope():
        variable = tf.Variable(ONES)
        optimizer = LARS(1.0, momentum=0.0, clipnorm=1.0, exclude_from_layer_adaptation=[""])

    @tf.function
    def step():
        def replica_step():
            first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
            optimizer.apply_gradients([(tf.where(first, 100.0, -99.9) * tf.ones((2, 2)), variable)])

        mirrored.run(replica_step)

    step()
    np.testing.assert_allclose(variable, 0.9 * ONES, atol=1e-5)


def test_mixed_float16_skips_overflowing_steps():
    x, y = addons_stack.data()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        optimizer = keras.mixed_precision.LossScaleOptimizer(
            LARS(1.0, excluded_learning_rate_multiplier=0.1), initial_scale=2.0**30
        )
        model, history = addons_stack.train(optimizer, x, y, epochs=8)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert float(optimizer.loss_scale) < 2.0**30
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum_form": "heavy"}, "momentum_form='heavy'"),
        ({"excluded_learning_rate_multiplier": -1}, "excluded_learning_rate_multiplier=-1"),
    ],
)
def test_a_setting_out_of_range_is_named(arguments, message):
    with pytest.raises(InputError, match=f"Received: {message}"):
        LARS(1.0, **arguments)


def test_lars_for_keras_3_says_where_this_one_is():
    if tf.__version__ >= "2.16":
        pytest.skip("Keras 3 is installed too")
    with pytest.raises(
        ImportError, match=r"needs Keras 3.*Received: keras 2.*tf_lars\.keras2\.LARS"
    ):
        importlib.import_module("tf_lars.optimizers.lars")

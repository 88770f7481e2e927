"""Properties that hold for all weights, gradients and settings."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.helpers.numpy_lars import NumpyLars
from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.lars_rule import MOMENTUM_FORMS, TRUST_NORMS, ZERO_NORMS, LarsRule

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _arrays(shape=(3, 4)):
    # Squares of tiny numbers underflow in float32: a norm would be 0 in one model and not in the
    # other.
    elements = st.floats(-10, 10, width=32).map(lambda x: x if abs(x) > 1e-6 else 0.0)
    return hnp.arrays(np.float32, shape, elements=elements)


rules = st.fixed_dictionaries(
    {
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "weight_decay": st.sampled_from([0.0, 1e-4, 0.1]),
        "trust_coefficient": st.sampled_from([0.001, 0.02]),
        "epsilon": st.sampled_from([0.0, 1e-8, 1e-3]),
        "nesterov": st.booleans(),
        "momentum_form": st.sampled_from(MOMENTUM_FORMS),
        "trust_norm": st.sampled_from(TRUST_NORMS),
        "clip_trust_ratio": st.booleans(),
        "zero_norm": st.sampled_from(ZERO_NORMS),
        "always_adapt": st.booleans(),
    }
)
rates = st.sampled_from([0.0, 0.1, 1.0, 8.0])


def _train(arguments, weights, gradients, learning_rates, adapt=True):
    variable = keras.Variable(weights)
    exclusions = [] if adapt else [""]
    optimizer = LARS(0.0, exclude_from_layer_adaptation=exclusions, **arguments)
    for gradient, rate in zip(gradients, learning_rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient)], [variable])
    return variable.numpy()


@quick
@given(
    arguments=rules,
    weights=_arrays(),
    gradients=st.lists(_arrays(), min_size=3, max_size=3),
    learning_rates=st.lists(rates, min_size=3, max_size=3),
    adapt=st.booleans(),
)
def test_equals_the_numpy_model(arguments, weights, gradients, learning_rates, adapt):
    # Where g and b*w cancel, the norm of u is nothing but rounding error in float32.
    model = NumpyLars(weights, adapt=adapt, **arguments)
    for gradient, rate in zip(gradients, learning_rates, strict=True):
        u = gradient + arguments["weight_decay"] * model.weights
        assume(not 0 < np.linalg.norm(u) < 1e-4 * np.linalg.norm(gradient))
        model.step(gradient, rate)
    actual = _train(arguments, weights, gradients, learning_rates, adapt)
    scale = max(np.abs(model.weights).max(), np.abs(weights).max(), 1e-3)
    np.testing.assert_allclose(actual, model.weights, rtol=0, atol=5e-6 * scale)


@quick
@given(
    form=st.sampled_from(MOMENTUM_FORMS),
    norm=st.sampled_from(TRUST_NORMS),
    nesterov=st.booleans(),
    weights=_arrays(),
    gradients=st.lists(_arrays(), min_size=3, max_size=3),
    exponent=st.integers(-12, 12),
)
def test_without_decay_the_scale_of_the_gradient_does_not_matter(
    form, norm, nesterov, weights, gradients, exponent
):
    assume(weights.any() and all(g.any() for g in gradients))
    arguments = {"momentum_form": form, "trust_norm": norm, "nesterov": nesterov}
    rates = [0.5, 1.0, 0.2]
    scaled = [np.float32(2.0**exponent) * g for g in gradients]
    one = _train(arguments, weights, gradients, rates)
    other = _train(arguments, weights, scaled, rates)
    # A power of two scales floats, and therefore the norms, exactly.
    np.testing.assert_array_equal(one, other)


@quick
@given(arguments=rules, weights=_arrays(), gradient=_arrays(), others=_arrays((2, 5)))
def test_a_step_does_not_depend_on_the_other_variables(arguments, weights, gradient, others):
    alone = _train(arguments, weights, [gradient], [0.5])
    variables = [keras.Variable(weights), keras.Variable(others)]
    optimizer = LARS(0.5, exclude_from_layer_adaptation=[], **arguments)
    optimizer.apply([tf.constant(gradient), tf.constant(others)], variables)
    np.testing.assert_array_equal(variables[0], alone)


@quick
@given(
    arguments=rules,
    learning_rate=st.floats(0, 100, width=32),
    decay=st.none() | st.lists(st.sampled_from(["bias", r"gamma$", ".*"])),
    adaptation=st.none() | st.lists(st.sampled_from(["bias", r"norm/"])),
    multiplier=st.floats(0, 2),
)
def test_serialization_is_the_identity(arguments, learning_rate, decay, adaptation, multiplier):
    optimizer = LARS(
        learning_rate,
        exclude_from_weight_decay=decay,
        exclude_from_layer_adaptation=adaptation,
        excluded_learning_rate_multiplier=multiplier,
        **arguments,
    )
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert restored.get_config() == optimizer.get_config()
    assert restored.rule == optimizer.rule


@quick
@given(arguments=rules, weights=_arrays(), first=_arrays(), second=_arrays(), rate=rates)
def test_two_replicas_equal_one_with_the_whole_batch(
    mirrored, arguments, weights, first, second, rate
):
    alone = _train(arguments, weights, [first + second], [rate])
    with mirrored.scope():
        variable = keras.Variable(weights)
        optimizer = LARS(rate, exclude_from_layer_adaptation=[], **arguments)
        optimizer.build([variable])

    def replica_step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply(
            [tf.constant(first) if int(replica) == 0 else tf.constant(second)], [variable]
        )

    mirrored.run(replica_step)
    for local in mirrored.experimental_local_results(variable.value):
        np.testing.assert_allclose(local, alone, rtol=1e-6, atol=1e-6)


NUMBERS = (
    "learning_rate",
    "momentum",
    "weight_decay",
    "trust_coefficient",
    "epsilon",
    "excluded_learning_rate_multiplier",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)
NO_NUMBERS = (
    float("nan"),
    float("inf"),
    -float("inf"),
    -0.1,
    True,
    "0.5",
    [0.5],
    np.float32("nan"),
)


@pytest.mark.parametrize("argument", NUMBERS)
def test_what_is_no_number_in_range_is_refused_by_its_name(argument):
    for value in (*NO_NUMBERS, 10**400):
        with pytest.raises(InputError, match=f"`{argument}` must be .* Received: {argument}="):
            LARS(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("momentum", 1.0),
        ("trust_coefficient", 0.0),
        ("nesterov", "yes"),
        ("clip_trust_ratio", 1),
        ("always_adapt", None),
        ("momentum_form", "heavy"),
        ("trust_norm", "both"),
        ("zero_norm", "skip"),
    ],
)
def test_a_setting_out_of_range_is_named(argument, value):
    with pytest.raises(InputError, match=f"`{argument}` must be .* Received: {argument}="):
        LarsRule(**{argument: value})


def test_numbers_of_numpy_become_pythons_so_that_json_can_hold_them():
    numpy = LARS(
        np.float32(0.5),
        momentum=np.float32(0.5),
        weight_decay=np.float64(0.25),
        epsilon=np.int64(1),
        nesterov=np.bool_(True),
        excluded_learning_rate_multiplier=np.float16(2),
        clipnorm=np.int32(3),
        gradient_accumulation_steps=np.int64(2),
        name="one",
    )
    python = LARS(
        0.5,
        momentum=0.5,
        weight_decay=0.25,
        epsilon=1.0,
        nesterov=True,
        excluded_learning_rate_multiplier=2.0,
        clipnorm=3.0,
        gradient_accumulation_steps=2,
        name="one",
    )
    assert json.dumps(numpy.get_config()) == json.dumps(python.get_config())

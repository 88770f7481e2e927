import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import golden
from tests.helpers.numpy_lars import NumpyLars
from tf_lars.optimizers.lars import LARS


@pytest.mark.parametrize("config", golden.configs())
def test_numpy_model_equals_the_float64_weights(config):
    arguments = golden.arguments(config)
    no_decay = arguments.pop("exclude_from_weight_decay")
    no_adaptation = arguments.pop("exclude_from_layer_adaptation")
    decay = arguments.pop("weight_decay")
    models = [
        NumpyLars(
            weights,
            weight_decay=0.0 if name in no_decay else decay,
            adapt=name not in no_adaptation,
            **arguments,
        )
        for name, weights in zip(golden.names(), golden.initial_weights(), strict=True)
    ]
    for step, rate in enumerate(golden.learning_rates()):
        for model, gradient in zip(models, golden.gradients(step), strict=True):
            model.step(gradient, float(rate))
    for name, model in zip(golden.names(), models, strict=True):
        for key, value in (("f64", model.weights), ("f64_v", model.velocity)):
            reference = golden.arrays()[f"{config}|{key}|{name}"]
            reference = reference[-1] if key == "f64" else reference
            np.testing.assert_allclose(value, reference, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("config", golden.configs())
def test_one_replica(config, mode):
    optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
    golden.check(config, *golden.keras_steps(optimizer, mode))


@pytest.mark.parametrize("config", golden.configs())
def test_two_replicas(config, mirrored):
    with mirrored.scope():
        variables = [
            tf.Variable(w, name=name)
            for name, w in zip(golden.names(), golden.initial_weights(), strict=True)
        ]
        optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
        optimizer.build(variables)

    @tf.function
    def apply(gradients):
        # Two different gradients whose sum, 2*g - g, is exact.
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            share = tf.where(tf.equal(replica, 0), 2.0, -1.0)
            optimizer.apply([share * g for g in gradients], variables)

        mirrored.run(replica_step)

    def take_step(gradients, rate):
        optimizer.learning_rate = rate
        apply(list(map(tf.constant, gradients)))

    def read():
        for variable in variables:
            first, second = (v.numpy() for v in mirrored.experimental_local_results(variable))
            np.testing.assert_array_equal(first, second)
        return [v.numpy() for v in variables]

    golden.check(config, take_step, read)

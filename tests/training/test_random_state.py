"""Random states: different on each replica, and unchanged on the first."""

import keras
import numpy as np
import tensorflow as tf

from tf_lars.training import random_state


def _model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5, seed=3)])


def test_replicas_drop_different_values_and_the_first_what_one_device_drops(mirrored):
    x = tf.ones((1, 1000))
    alone = _model()(x, training=True).numpy()
    with mirrored.scope():
        model = _model()
    random_state.differ_by_replica(model, mirrored)
    random_state.differ_by_replica(model, mirrored)  # a second call changes nothing
    masks = mirrored.run(lambda: model(x, training=True))
    one, other = (mask.numpy() for mask in mirrored.experimental_local_results(masks))
    np.testing.assert_array_equal(one, alone)
    assert 400 < np.sum(one != other) < 600
    states = model.layers[0].seed_generator.state.value
    (seed, draws), (other_seed, other_draws) = (
        value.numpy() for value in mirrored.experimental_local_results(states)
    )
    assert (seed, draws, other_draws) == (3, 1, 1)
    assert other_seed == 3 + 0x9E3779B1 % 2**31

"""Keras 2 of this environment; skips the tests that import it if there is none."""

import pytest
import tensorflow as tf

try:
    from tf_lars import keras2
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

keras = keras2._KERAS
LARS = keras2.LARS


def train(optimizer, x, y, seed=0, **fit):
    """Fits a small dense network; returns it and its history."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input((x.shape[1],)),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    arguments = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0, **fit}
    history = model.fit(x, y, **arguments)
    return model, history.history


def data(examples=64):
    """Returns three linearly separable classes."""
    generator = tf.random.Generator.from_seed(0)
    x = generator.normal((examples, 4))
    return x.numpy(), tf.argmax(x[:, :3], axis=1).numpy()

"""A Trainer follows its model: compiled anew, frozen, or made under another strategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars import LARS, Trainer
from tf_lars.errors import InputError

X, Y = training_cases.images(64)
X = X.astype("float32")


def _model(strategy):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        base = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Rescaling(1 / 128, offset=-1.0),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.GlobalAveragePooling2D(),
            ],
            name="base",
        )
        return keras.Sequential([base, keras.layers.Dense(10, name="head")])


def _compile(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def _fine_tuned(strategy, fit_of):
    """Trains the head, then everything with another optimizer; returns the weights after each."""
    model = _model(strategy)
    fit, stages = fit_of(model), []
    for trainable, optimizer in (
        (False, lambda: LARS(0.3, trust_coefficient=0.1)),
        (True, lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    ):
        model.get_layer("base").trainable = trainable
        with strategy.scope():
            _compile(model, optimizer())
        fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations.numpy()) == 8
        stages.append([w.numpy() for w in model.weights])
    return stages


class _Following:
    """One Trainer for all calls of `fit`."""

    def __init__(self, model):
        self._model, self._trainer = model, None

    def __call__(self, *arguments, **options):
        self._trainer = self._trainer or Trainer(self._model)
        return self._trainer.fit(*arguments, **options)


@pytest.mark.parametrize("replicas", [1, 2])
def test_fine_tuning_in_two_stages_goes_as_with_keras(replicas, mirrored):
    alone = tf.distribute.get_strategy()
    expected = _fine_tuned(alone, lambda model: model.fit)
    found = _fine_tuned(mirrored if replicas == 2 else alone, _Following)
    for stage, keras_stage in zip(found, expected, strict=True):
        for one, other in zip(stage, keras_stage, strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-6)


def test_a_layer_that_is_frozen_without_compiling_does_not_move():
    model = _model(tf.distribute.get_strategy())
    _compile(model, keras.optimizers.SGD(0.1))
    trainer = Trainer(model)
    trainer.fit(X, Y, verbose=0)
    before = [w.numpy() for w in model.weights]
    model.get_layer("base").trainable = False
    trainer.fit(X, Y, verbose=0)
    moved = [bool(np.any(w.numpy() != b)) for w, b in zip(model.weights, before, strict=True)]
    assert moved == [False, False, True, True]


def test_metrics_of_a_new_compile_are_evaluated():
    model = _model(tf.distribute.get_strategy())
    _compile(model, "sgd")
    trainer = Trainer(model)
    assert {"loss", "accuracy"} <= trainer.evaluate(X, Y).keys()
    top = keras.metrics.SparseTopKCategoricalAccuracy(3, name="top3")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[top])
    assert {"loss", "top3", "examples"} == trainer.evaluate(X, Y).keys()


def test_the_strategy_is_that_of_the_model(mirrored):
    model = _model(mirrored)
    with mirrored.scope():
        _compile(model, "sgd")
    assert Trainer(model).strategy is mirrored
    other = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with pytest.raises(InputError, match="made in that of another one"):
        Trainer(model, other)
    alone = _model(tf.distribute.get_strategy())
    _compile(alone, "sgd")
    with pytest.raises(InputError, match="made in that of none"):
        Trainer(alone, mirrored)


def test_a_second_fit_trains_on_from_the_weights_of_the_first():
    model = _model(tf.distribute.get_strategy())
    _compile(model, keras.optimizers.SGD(0.1))
    trainer = Trainer(model)
    first = trainer.fit(X, Y, epochs=2, verbose=0)
    second = trainer.fit(X, Y, epochs=2, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 8
    assert (first.epoch, second.epoch, len(second)) == ([0, 1], [0, 1], 2)
    assert second.history["loss"][-1] < first.history["loss"][0]
    assert model.history is second

"""Models that `Trainer` refuses because replicas would not train them to the same result."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars import Trainer
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import InputError


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InputError, match="compiled model"):
        Trainer(training_cases.plain_model())
    model = training_cases.plain_model()
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    with pytest.raises(InputError, match="sum_over_batch_size"):
        Trainer(model)
    model.compile("sgd", [keras.losses.MeanSquaredError(reduction="sum")])
    with pytest.raises(InputError, match="sum_over_batch_size"):
        Trainer(model)
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    with pytest.raises(InputError, match="set micro_batch_size"):
        Trainer(model)


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_metrics"])
def test_a_model_with_steps_of_its_own_is_refused(name):
    own = type("Own", (keras.Sequential,), {name: lambda self, *arguments: {}})
    model = own([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(InputError, match=f"Own, which overrides {name}"):
        Trainer(model)


class OneNumber(keras.losses.Loss):
    """Mean over all axes."""

    def call(self, y_true, y_pred):
        return tf.reduce_mean((tf.cast(y_true, tf.float32) - y_pred) ** 2)


def _squares(y_true, y_pred):
    return tf.reduce_mean((y_true - y_pred) ** 2, axis=-1)


class NowOneNumber(keras.losses.MeanSquaredError):
    """Subclass of a Keras loss that returns a single number."""

    def call(self, y_true, y_pred):
        return tf.reduce_mean(super().call(y_true, y_pred))


@pytest.mark.parametrize(
    "loss",
    [
        OneNumber(),
        NowOneNumber(),
        lambda y_true, y_pred: tf.reduce_mean((y_true - y_pred) ** 2),
        keras.losses.Dice(),
        "tversky",
    ],
)
def test_a_loss_of_one_number_is_refused(loss, mirrored):
    with mirrored.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", [loss])
    trainer = Trainer(model, mirrored)
    data = ArrayTrainingInput(np.ones((8, 4), np.float32), np.ones((8, 2), np.float32), 4)
    with pytest.raises(InputError, match="one value per example"):
        trainer.fit(data, epochs=1)


def test_a_loss_of_ones_own_trains_as_keras_own_does(mirrored):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    trained = []
    for loss in ("mse", _squares):
        keras.utils.set_random_seed(0)
        with mirrored.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            model.compile("sgd", loss)
        trainer = Trainer(model, mirrored)
        trainer.fit(ArrayTrainingInput(x, x[:, :2], 8), epochs=3)
        trained.append((model.get_weights(), trainer.evaluate(_evaluation(x))["loss"]))
    for one, other in zip(trained[0][0], trained[1][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert trained[0][1] == pytest.approx(trained[1][1], rel=1e-6)


def _evaluation(x):
    return ArrayEvaluationInput(x[:7], x[:7, :2], 4)


def test_one_loss_of_ones_own_may_be_that_of_several_outputs():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)]
    model = keras.Model(inputs, outputs)
    loss = PerExample()
    model.compile("sgd", loss=[loss, loss])
    Trainer(model).build(
        (
            tf.TensorSpec([4, 4], tf.float32),
            (tf.TensorSpec([4, 2], tf.float32), tf.TensorSpec([4, 3], tf.float32)),
        )
    )
    assert "call" not in vars(loss)


class PerExample(keras.losses.Loss):
    """Mean of squares per example."""

    def call(self, y_true, y_pred):
        return _squares(y_true, y_pred)


@pytest.mark.parametrize("loss", [None, "mse"])
def test_a_compute_loss_of_ones_own_needs_no_compiled_loss(loss):
    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return tf.reduce_mean(_squares(y, y_pred))

    model = Own([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss)
    x = np.ones((8, 4), np.float32)
    trainer = Trainer(model)
    trainer.fit(ArrayTrainingInput(x, x[:, :2], 4), epochs=1)
    assert trainer.evaluate(_evaluation(x))["examples"] == 7


def test_a_compute_loss_without_training_is_called_as_in_keras():
    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return super().compute_loss(x, y, y_pred, sample_weight)

    model = Own([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.ones((8, 4), np.float32)
    trainer = Trainer(model)
    trainer.fit(ArrayTrainingInput(x, x[:, :2], 4), epochs=1)
    assert trainer.evaluate(_evaluation(x))["examples"] == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"micro_batch_size": 8}, "Received: micro-batches"),
        ({"micro_batch_size": "auto"}, "Received: micro-batches"),
        ({"jit_compile": True}, "Received: jit_compile"),
    ],
)
def test_replicas_that_normalise_together_take_their_whole_share_at_once(arguments, told, mirrored):
    t = training_cases.trainer(
        mirrored, lambda: training_cases.small_resnet(sync_batch_norm=True), **arguments
    )
    with pytest.raises(InputError, match=told):
        t.fit(ArrayTrainingInput(*training_cases.images(64), 64), epochs=1)

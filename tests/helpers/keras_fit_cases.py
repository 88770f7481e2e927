"""What test_keras_fit.py has two workers do with Keras's `fit`, and what one process does."""

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import keras_fit_models as models
from tests.helpers.keras_fit_models import BATCH, data, fit, model, sgd, weights
from tf_lars import LARS
from tf_lars.optimizers.loss_scale import LossScaleOptimizer


def _two_outputs():
    x, y = data()
    network = models.two_outputs()
    result = fit(network, x={"a": x, "b": -2 * x}, y=[x[:, :1], y], validation_data=None)
    predicted = network.predict({"a": x, "b": x}, batch_size=BATCH, verbose=0)
    return {**result, **{f"predicted {i}": p for i, p in enumerate(predicted)}}


def _evaluation():
    network = model()
    x, y = data(101)
    results = network.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
    return {**results, "predicted": network.predict(x, batch_size=BATCH, verbose=0)}


def _autoencoder(built):
    network = models.in_scope(lambda: models.Autoencoder(built), sgd())
    return fit(network, y=None, validation_data=(data(64, 1)[0],))


def _adversaries():
    network = models.in_scope(
        models.Adversaries, lambda: LARS(2.0), lambda: keras.optimizers.Adam(0.01)
    )
    return fit(network, y=None, validation_data=None)


def _own_loss(kind, loss):
    x = data()[0]
    return fit(
        models.functional(kind, loss),
        y=x[:, 1:2],
        validation_data=(data(64, 1)[0], data(64, 1)[0][:, 1:2]),
    )


def _py_dataset():
    network = model()
    batches = models.Batches(*data(80), workers=2)
    results = fit(
        network,
        x=batches,
        y=None,
        batch_size=None,
        validation_data=models.Batches(*data(64, 1)),
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
    )
    return {**results, "predicted": network.predict(batches, verbose=0)}


EQUAL = {
    "lars": lambda: fit(model()),
    "clipped lars": lambda: fit(model(lambda: LARS(2.0, global_clipnorm=0.01))),
    "ema": lambda: fit(model(lambda: LARS(2.0, use_ema=True, ema_overwrite_frequency=2))),
    "synchronised batch norm": lambda: fit(
        model(None, lambda: keras.layers.BatchNormalization(synchronized=True))
    ),
    "weights": lambda: fit(
        model(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        validation_data=None,
        validation_split=1 / 3,
    ),
    "dataset": lambda: fit(
        model(), x=tf.data.Dataset.from_tensor_slices(data()).batch(BATCH), y=None, batch_size=None
    ),
    "PyDataset": _py_dataset,
    "two outputs": _two_outputs,
    "evaluation": _evaluation,
    "no call": lambda: _autoencoder(True),
    "no call, built by the step": lambda: _autoencoder(False),
    "two optimizers": _adversaries,
    "own train_step": lambda: _own_loss(models.OwnStep, "mse"),
    "own compute_loss": lambda: _own_loss(models.OwnLoss, "mse"),
    "a loss that is one number": lambda: _own_loss(
        keras.Model, lambda y, p: keras.ops.mean(keras.ops.square(y - p))
    ),
    "a sum": lambda: _own_loss(keras.Model, keras.losses.MeanSquaredError(reduction="sum")),
}
"""Cases whose results must equal those of one process on the whole batch."""


def contrastive():
    """Trains a model whose loss compares the examples of a batch, which each worker does alone."""
    with models.fresh_scope():
        network = models.Contrastive()
        network.compile(sgd()())
    x, y = data()
    pairs = tf.data.Dataset.from_tensor_slices(((x, y), -x)).batch(BATCH)
    return fit(network, x=pairs, y=None, batch_size=None, validation_data=None)


def examples_seen(of_dataset=False):
    """Counts how often each of 64 examples was seen in an epoch; each moves its own weight."""
    rate, targets = 1e-3, np.arange(1.0, 65.0, dtype="float32")
    with models.fresh_scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        network = keras.Sequential([keras.Input((64,)), dense])
        network.compile(keras.optimizers.SGD(rate), "mse")
    losses, seen = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(logs["loss"])

        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights()[0][:, 0] / (2 * rate * targets / 16))

    arrays = np.eye(64, dtype="float32"), targets[:, None]
    if of_dataset:
        np.random.seed()  # noqa: NPY002  each worker draws its own order
        source = {"x": models.Batches(*arrays, size=16, shuffle=True, workers=2)}
    else:
        source = {"x": arrays[0], "y": arrays[1], "batch_size": 16}
    network.fit(**source, epochs=2, verbose=0, callbacks=[Watch()])
    return {"seen": seen[0], "losses": np.array(losses).reshape(2, 4)}


def batch_norm():
    """Returns statistics under constant weights, which makes them linear in the batches."""
    still = keras.optimizers.SGD(0.0)
    return fit(model(lambda: still, lambda: keras.layers.BatchNormalization(momentum=0.5)))


def half_precision():
    """Trains in float16 with a shared scale and an Inf that only the second worker gets."""
    x, y = data()
    x[BATCH // 2 + 1] = np.inf
    network = model(
        lambda: LossScaleOptimizer(LARS(1.0)),
        lambda: keras.layers.Dense(8, dtype=keras.dtype_policies.DTypePolicy("mixed_float16")),
    )
    return {**fit(network, x=x, y=y), "scale": network.optimizer.dynamic_scale.numpy()}


def not_a_number():
    """Trains with a NaN that only one worker gets, and counts the batches until training ends."""
    x, y = data()
    x[BATCH + 1] = np.nan
    network = model(activation="linear")  # a ReLU turns NaN into 0
    batches = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    callbacks = [keras.callbacks.TerminateOnNaN(), watch]
    fit(network, x=x, y=y, epochs=5, validation_data=None, callbacks=callbacks)
    return {"batches": len(batches)}


def callbacks(folder, rank):
    """Trains with callbacks of Keras; those that write files of their own, on one worker."""
    network = model(sgd())
    network.optimizer.learning_rate = 0.5
    given = [
        keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=10.0),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0),
        keras.callbacks.TensorBoard(str(folder / "tensorboard")),
        keras.callbacks.BackupAndRestore(str(folder / f"backup{rank}")),
    ]
    if rank == 0:
        given += [
            keras.callbacks.ModelCheckpoint(str(folder / "model.keras")),
            keras.callbacks.CSVLogger(str(folder / "log.csv")),
        ]
    listed = keras.callbacks.CallbackList(given, add_history=True, model=network, epochs=9)
    before = list(listed.callbacks)
    result = fit(network, epochs=9, callbacks=listed)
    assert listed.callbacks == before
    return {**result, **weights(network)}


class Interruption(Exception):
    """Takes the place of a crash."""


def interrupted(backup, **arguments):
    """Trains until the third of four epochs begins, with a backup in a folder."""

    def stop(epoch, logs):
        if epoch == 2:
            raise Interruption

    given = [
        keras.callbacks.BackupAndRestore(str(backup), **arguments),
        keras.callbacks.LambdaCallback(on_epoch_begin=stop),
    ]
    try:
        fit(model(), epochs=4, callbacks=given)
    except Interruption:
        return
    raise AssertionError("not interrupted")


def resumed(backup, seed=1):
    """Trains the rest of four epochs; the new model would begin with other weights."""
    network = model(seed=seed)
    return fit(network, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(str(backup))])


def uninterrupted():
    """Trains four epochs."""
    return fit(model(), epochs=4)


def outside():
    """Does what works in Keras without a strategy only, and returns the results."""
    x, y = data(128)
    # Known, even numbers of batches: Keras 3.10 waits forever at the end of others.
    results = {}
    network = model(
        sgd(global_clipnorm=0.1),
        lambda: keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization,
        steps_per_execution=2,
    )
    given = {"x": x, "y": y, "batch_size": 24, "verbose": 0}
    history = network.fit(**given, epochs=2, validation_split=0.25).history
    pairs = (pair for pair in models.Batches(x, y))
    history |= network.fit(pairs, steps_per_epoch=4, verbose=0).history
    results |= {f"fit {name}": values for name, values in history.items()} | weights(network)
    results |= {"evaluated": network.evaluate(**given)}
    batches = (x[i : i + 7] for i in range(0, 98, 7))
    results |= {"predicted": network.predict(((one,) for one in batches), steps=14, verbose=0)}
    eager = models.functional(models.OwnStep, "mse")
    eager.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse", run_eagerly=True)
    results |= {f"eager {k}": v for k, v in fit(eager, x=x, y=y, validation_data=None).items()}
    return results

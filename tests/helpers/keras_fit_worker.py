"""One of two real workers: python -m tests.helpers.keras_fit_worker <folder>, with TF_CONFIG.

Runs stock `model.fit` in every way that test_keras_fit.py checks and writes the numbers to
<folder>/worker<rank>.npz.
"""

import contextlib
import functools
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer

from tf_lars import LARS
from tf_lars.cluster.spec import resolve_cluster
from tf_lars.distribute import keras_fit
from tf_lars.distribute.strategy import create_strategy
from tf_lars.errors import InputError
from tf_lars.optimizers.loss_scale import LossScaleOptimizer

SIZE, BATCH = 6, 32
joined = None  # the strategy of both workers; None in the process of a test


def fresh_scope():
    """Clears all models, for the same names in every process, and returns the strategy's scope."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    return joined.scope() if joined else contextlib.nullcontext()


def data(examples=96, seed=0):
    """Returns inputs `[examples, 6]` and three classes that depend on them."""
    x = np.random.default_rng(seed).standard_normal((examples, SIZE)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.3 * x[:, 3:], axis=1)


def model(optimizer=None, *layers, activation="relu", **compile_arguments):
    """Returns a compiled classifier with the given layers in its middle."""
    with fresh_scope():
        network = keras.Sequential(
            [
                keras.Input((SIZE,)),
                keras.layers.Dense(8, activation=activation),
                *[layer() for layer in layers],
                keras.layers.Dense(3, dtype="float32"),
            ]
        )
        network.compile(
            optimizer() if optimizer else LARS(2.0, weight_decay=1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **compile_arguments,
        )
    return network


def two_outputs():
    """Returns a model with a dictionary of inputs, two outputs and a penalty."""
    with fresh_scope():
        inputs = {name: keras.Input((SIZE,), name=name) for name in "ab"}
        hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")(
            keras.layers.Add()(list(inputs.values()))
        )
        outputs = [keras.layers.Dense(1, name=name)(hidden) for name in "pq"]
        network = keras.Model(inputs, outputs)
        network.compile(keras.optimizers.AdamW(0.01), ["mse", "mse"], metrics=[["mae"], ["mae"]])
    return network


def _fit(network, **arguments):
    """Trains two epochs in the order of the arrays; the last validation batch has one example."""
    x, y = data()
    defaults = {"x": x, "y": y, "batch_size": BATCH, "epochs": 2, "validation_data": data(33, 1)}
    history = network.fit(**{**defaults, "shuffle": False, "verbose": 0, **arguments}).history
    return {**weights(network), **{name: np.array(values) for name, values in history.items()}}


def weights(network):
    return {f"w{i} {w.path}": w.numpy() for i, w in enumerate(network.weights)}


def _two_outputs():
    x, y = data()
    network = two_outputs()
    result = _fit(network, x={"a": x, "b": -2 * x}, y=[x[:, :1], y], validation_data=None)
    predicted = network.predict({"a": x, "b": x}, batch_size=BATCH, verbose=0)
    return {**result, **{f"predicted {i}": p for i, p in enumerate(predicted)}}


def _evaluation():
    network = model()
    x, y = data(101)
    results = network.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True)
    return {**results, "predicted": network.predict(x, batch_size=BATCH, verbose=0)}


EQUAL = {
    "lars": lambda: _fit(model()),
    "clipped lars": lambda: _fit(model(lambda: LARS(2.0, global_clipnorm=0.01))),
    "ema": lambda: _fit(model(lambda: LARS(2.0, use_ema=True, ema_overwrite_frequency=2))),
    "synchronised batch norm": lambda: _fit(
        model(None, lambda: keras.layers.BatchNormalization(synchronized=True))
    ),
    "weights": lambda: _fit(
        model(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        validation_data=None,
        validation_split=1 / 3,
    ),
    "dataset": lambda: _fit(
        model(), x=tf.data.Dataset.from_tensor_slices(data()).batch(BATCH), y=None, batch_size=None
    ),
    "two outputs": _two_outputs,
    "evaluation": _evaluation,
}
"""Cases whose results must equal those of one process on the whole batch."""


def _examples_seen():
    """Counts how often each of 64 examples was seen in an epoch; each moves its own weight."""
    rate, targets = 1e-3, np.arange(1.0, 65.0, dtype="float32")
    with fresh_scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        network = keras.Sequential([keras.Input((64,)), dense])
        network.compile(keras.optimizers.SGD(rate), "mse")
    losses, seen = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(logs["loss"])

        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights()[0][:, 0] / (2 * rate * targets / 16))

    x = np.eye(64, dtype="float32")
    network.fit(x, targets[:, None], batch_size=16, epochs=2, verbose=0, callbacks=[Watch()])
    return {"seen": seen[0], "losses": np.array(losses).reshape(2, 4)}


def batch_norm():
    """Returns statistics under constant weights, which makes them linear in the batches."""
    still = keras.optimizers.SGD(0.0)
    return _fit(model(lambda: still, lambda: keras.layers.BatchNormalization(momentum=0.5)))


def _half_precision():
    """Trains in float16 with a shared scale and an Inf that only the second worker gets."""
    x, y = data()
    x[BATCH // 2 + 1] = np.inf
    network = model(
        lambda: LossScaleOptimizer(LARS(1.0)),
        lambda: keras.layers.Dense(8, dtype=keras.dtype_policies.DTypePolicy("mixed_float16")),
    )
    return {**_fit(network, x=x, y=y), "scale": network.optimizer.dynamic_scale.numpy()}


def _not_a_number():
    """Trains with a NaN that only one worker gets, and counts the batches until training ends."""
    x, y = data()
    x[BATCH + 1] = np.nan
    network = model(activation="linear")  # a ReLU turns NaN into 0
    batches = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    callbacks = [keras.callbacks.TerminateOnNaN(), watch]
    _fit(network, x=x, y=y, epochs=5, validation_data=None, callbacks=callbacks)
    return {"batches": len(batches)}


def _callbacks(folder, rank):
    network = model(lambda: keras.optimizers.SGD(0.5))
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=10.0),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0),
        keras.callbacks.TensorBoard(str(folder / "tensorboard")),
        keras.callbacks.BackupAndRestore(str(folder / f"backup{rank}")),
    ]
    if rank == 0:
        callbacks += [
            keras.callbacks.ModelCheckpoint(str(folder / "model.keras")),
            keras.callbacks.CSVLogger(str(folder / "log.csv")),
        ]
    return _fit(network, epochs=9, callbacks=callbacks)


class _Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(a[index * BATCH : (index + 1) * BATCH] for a in data())


def refused(folder, rank):
    """Returns functions that must be refused, by name."""

    def sgd(**arguments):
        return functools.partial(keras.optimizers.SGD, 0.1, **arguments)

    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", rank == 0)
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(folder / "same.weights.h5"), save_weights_only=True
    )
    return {
        "steps_per_execution": lambda: _fit(model(steps_per_execution=2)),
        "jit_compile": lambda: _fit(model(jit_compile=True)),
        "evaluate jit_compile": lambda: model(jit_compile=True).evaluate(*data(), verbose=0),
        "run_eagerly": lambda: _fit(model(run_eagerly=True)),
        "clip": lambda: _fit(model(sgd(global_clipnorm=1.0))),
        "accumulation": lambda: _fit(model(sgd(gradient_accumulation_steps=2))),
        "ema": lambda: _fit(model(sgd(use_ema=True, ema_overwrite_frequency=2))),
        "loss scale": lambda: _fit(model(lambda: keras.optimizers.LossScaleOptimizer(sgd()()))),
        "odd batch": lambda: _fit(model(), batch_size=33),
        "lonely example": lambda: _fit(model(), x=data(33)[0], y=data(33)[1]),
        "generator": lambda: _fit(model(), x=_Sequence(), y=None, batch_size=None),
        "one path": lambda: _fit(model(), callbacks=[checkpoint]),
        "stop alone": lambda: _fit(model(), callbacks=[stop]),
    }


def _refusal(attempt):
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""


def _stock_still_broken(strategy, rank):
    """Returns 1 for each of Keras's own functions that still fails, otherwise 0, by name."""
    pairs = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    network = model()

    def fails(attempt):
        try:
            attempt()
        except (ValueError, TypeError):
            return 1
        return 0

    def first_batch():
        iterator = keras_trainer.TFEpochIterator(x=pairs, distribute_strategy=strategy)
        keras_fit.stock["_maybe_symbolic_build"](network, iterator=iterator)

    def scalar():
        reduce = tf.function(
            lambda: keras_fit.stock["reduce_per_replica"](
                strategy.run(lambda: tf.constant(1.0)), strategy, "auto"
            )
        )
        reduce()

    def shuffled():
        iterator = object.__new__(keras_trainer.TFEpochIterator)
        tf.random.set_seed(rank)
        keras_fit.stock["__init__"](
            iterator, strategy, x=np.arange(64), batch_size=16, shuffle=True
        )
        rows = []
        for *_, batches in iterator:
            rows += strategy.gather(next(batches), axis=0).numpy().tolist()
        if sorted(rows) != list(range(64)):
            raise ValueError(rows)

    return {
        "_maybe_symbolic_build": fails(first_batch),
        "reduce_per_replica": fails(scalar),
        "order of arrays": fails(shuffled),
    }


def main():
    global joined
    folder = pathlib.Path(sys.argv[1])
    rank = resolve_cluster().rank
    strategy = create_strategy()
    results = {}

    def keep(case, values):
        results.update({f"{case}|{name}": value for name, value in values.items()})

    outside = model()
    keep("refused", {"outside": _refusal(lambda: _fit(outside))})
    joined = strategy
    keep("stock", _stock_still_broken(strategy, rank))
    for case, run in EQUAL.items():
        keep(case, run())
    keep("examples seen", _examples_seen())
    keep("batch norm", batch_norm())
    keep("half precision", _half_precision())
    keep("not a number", _not_a_number())
    keep("callbacks", _callbacks(folder, rank))
    for name, attempt in refused(folder, rank).items():
        keep("refused", {name: _refusal(attempt)})
    np.savez(folder / f"worker{rank}.npz", **results)


if __name__ == "__main__":
    main()

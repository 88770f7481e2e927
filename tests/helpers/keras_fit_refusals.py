"""What Keras's `fit` must refuse on several workers, on all of them."""

import shutil

import keras
import numpy as np

from tests.helpers import keras_fit_cases as cases
from tests.helpers import keras_fit_models as models
from tests.helpers.keras_fit_models import BATCH, data, fit, model, sgd
from tf_lars.errors import InputError


def refusal(attempt):
    """Returns the message with which an attempt is refused, or ""."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""


def _on_epoch(hook, change):
    """Returns a model and callbacks that change it, for `fit`."""
    network = model()
    return network, [keras.callbacks.LambdaCallback(**{hook: lambda *_: change(network)})]


def _changed_by_first_worker(hook, rank, change):
    network, callbacks = _on_epoch(hook, change if rank == 0 else lambda network: None)
    fit(network, callbacks=callbacks)


def _set_weights(network):
    network.layers[0].kernel.assign(network.layers[0].kernel + 1)


def _backups_of_different_epochs(folder, rank):
    mine = folder / f"epochs{rank}"
    cases.interrupted(mine)
    if rank == 1:
        shutil.rmtree(mine)
    cases.resumed(mine)


def _random_targets(rank):
    x, y = data(64)
    fit(model(), x=models.Batches(x, (y + rank) % 3), y=None, batch_size=None)


def _made_in_another_order(rank):
    x, y = data(64)
    order = np.random.default_rng(rank).permutation(64)
    fit(model(), x=models.Batches(x[order], y[order]), y=None, batch_size=None)


def refused(folder, rank):
    """Returns functions that must be refused, by name."""
    x, y = data()
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(folder / "same.weights.h5"), save_weights_only=True
    )
    backup = [keras.callbacks.BackupAndRestore(str(folder / "one"))]

    def sgd_with(**arguments):
        return lambda: fit(model(sgd(**arguments)))

    def stop(network):
        network.stop_training = rank == 0

    def lower_rate(network):
        network.optimizer.learning_rate = 0.01

    def step_on(network):
        network.optimizer.iterations.assign(7)

    def own_optimizers():
        network = models.in_scope(models.Adversaries, sgd(clipnorm=1.0), sgd())
        fit(network, y=None, validation_data=None)

    def stops():
        network, callbacks = _on_epoch("on_epoch_end", stop)
        fit(network, callbacks=callbacks)

    def in_scope_of_another():
        strategy, models.Joined.strategy = models.Joined.strategy, None
        outside = model()
        models.Joined.strategy = strategy
        with strategy.scope():
            fit(outside)

    def other_method():
        network = model()
        if rank == 0:
            network.evaluate(x, y, batch_size=BATCH, verbose=0)
        else:
            network.fit(x, y, batch_size=BATCH, verbose=0)

    unsummed = keras.losses.MeanSquaredError(reduction=None)
    generator = (pair for pair in models.Batches(x, y))
    return {
        "steps_per_execution": lambda: fit(model(steps_per_execution=2)),
        "jit_compile": lambda: fit(model(jit_compile=True)),
        "evaluate jit_compile": lambda: model(jit_compile=True).evaluate(*data(), verbose=0),
        "run_eagerly": lambda: fit(model(run_eagerly=True)),
        "clip": sgd_with(global_clipnorm=1.0),
        "clip of own optimizer": own_optimizers,
        "accumulation": sgd_with(gradient_accumulation_steps=2),
        "ema": sgd_with(use_ema=True, ema_overwrite_frequency=2),
        "loss scale": lambda: fit(model(lambda: keras.optimizers.LossScaleOptimizer(sgd()()))),
        "no reduction": lambda: fit(model(loss=unsummed), y=x[:, :3], validation_data=None),
        "odd batch": lambda: fit(model(), batch_size=33),
        "odd batch of one worker": lambda: fit(model(), batch_size=33 if rank == 0 else 32),
        "lonely example": lambda: fit(model(), x=data(33)[0], y=data(33)[1]),
        "lonely example of a PyDataset": lambda: fit(
            model(), x=models.Batches(*data(33)), y=None, batch_size=None
        ),
        "generator": lambda: fit(model(), x=generator, y=None, batch_size=None),
        "other targets": lambda: _random_targets(rank),
        "other order": lambda: _made_in_another_order(rank),
        "one path": lambda: fit(model(), callbacks=[checkpoint]),
        "one backup": lambda: fit(model(), callbacks=backup if rank == 0 else []),
        "backups of different epochs": lambda: _backups_of_different_epochs(folder, rank),
        "stop alone": stops,
        "rate alone": lambda: _changed_by_first_worker("on_epoch_end", rank, lower_rate),
        "iterations": lambda: _changed_by_first_worker("on_epoch_begin", rank, step_on),
        "weights": lambda: _changed_by_first_worker("on_train_begin", rank, _set_weights),
        "epochs": lambda: fit(model(), epochs=2 + rank),
        "first epoch": lambda: fit(model(), initial_epoch=1 - rank),
        "batches": lambda: fit(model(), x=x[: 96 - 32 * rank], y=y[: 96 - 32 * rank]),
        "method": other_method,
        "scope": in_scope_of_another,
    }

"""What each worker of a Ray Train job runs in tests.integrations.test_ray_train."""

import contextlib
import os
import pathlib
import signal

import keras
import ray.train

from tf_lars import LARS, Trainer, create_strategy
from tf_lars.errors import InputError
from tf_lars.integrations.ray import RayReport, RayTrainingInput, read_arrays, restore
from tf_lars.tracking import results

BATCH, EPOCHS = 64, 3


class _KilledOnce(keras.callbacks.Callback):
    """Ends this worker by SIGKILL at the beginning of the third epoch, once in a job."""

    def __init__(self, marker):
        super().__init__()
        self._marker = pathlib.Path(marker)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and not self._marker.exists():
            # Until Ray has noted both, it would resume from an earlier one.
            ray.train.get_all_reported_checkpoints(timeout_s=120)
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def _model(strategy=None):
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential(
            [
                keras.Input((8, 8)),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.1),
                keras.layers.Dense(10),
            ]
        )
        model.compile(
            LARS(1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def restored_by_driver(checkpoint):
    """Returns what the program that started the job reads from its last checkpoint."""
    model = _model()
    return {
        "epochs by driver": restore(model, checkpoint),
        "weights by driver": results.weights_sha256(model),
        "iterations by driver": int(model.optimizer.iterations.numpy()),
    }


def _refusal(attempt):
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""


def train(config):
    """Trains with `Trainer` despite a SIGKILL, once more without, and with Keras's `fit`."""
    strategy = create_strategy()
    rank = ray.train.get_context().get_world_rank()
    shard, held_out = map(ray.train.get_dataset_shard, ("train", "validation"))
    data = RayTrainingInput(
        shard, config["num_rows"], BATCH, "image", "label", shuffle_buffer_size=128
    )
    validation = read_arrays(held_out, "image", "label")
    found = {"steps": data.steps, "validation": len(validation[1])}

    model = _model(strategy)
    found["resumed at epoch"] = restore(model)
    callbacks = [RayReport(), *([_KilledOnce(config["marker"])] if rank == 1 else [])]
    history = Trainer(model).fit(
        data,
        epochs=EPOCHS,
        initial_epoch=found["resumed at epoch"],
        validation_data=validation,
        callbacks=callbacks,
        verbose=0,
    )
    found["killed"], found["val_accuracy"] = (
        results.weights_sha256(model),
        history[-1]["val_accuracy"],
    )
    undisturbed = _model(strategy)
    Trainer(undisturbed).fit(data, epochs=EPOCHS, verbose=0)
    found["undisturbed"] = results.weights_sha256(undisturbed)

    by_keras = _model(strategy)
    batches = data.for_keras()
    fit = by_keras.fit(batches, epochs=2, verbose=0, callbacks=[RayReport(checkpoint_every=2)])
    found["losses of fit"] = fit.history["loss"]
    found["iterations of fit"] = int(by_keras.optimizer.iterations.numpy())
    again = _model(strategy)
    last = ray.train.get_all_reported_checkpoints()[-1].checkpoint
    found["epochs of fit"] = restore(again, last)
    found["fit"], found["restored fit"] = map(results.weights_sha256, (by_keras, again))
    again.fit(batches, epochs=3, initial_epoch=2, verbose=0)
    found["iterations restored"] = int(again.optimizer.iterations.numpy())

    found["refusals"] = [
        _refusal(lambda: RayTrainingInput(held_out, 100, BATCH, "image", "label")),
        _refusal(lambda: read_arrays(shard, "image", "label")),
        _refusal(lambda: RayTrainingInput(shard, BATCH, 2 * BATCH, "image", "label")),
        _refusal(lambda: RayTrainingInput(shard, 400, BATCH, "picture", "label")),
    ]
    return found

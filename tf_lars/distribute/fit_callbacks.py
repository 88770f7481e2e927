"""Callbacks of Keras's `fit` on several workers: ours, and the user's as each worker runs them."""

import copy
import hashlib
import zlib

import keras
import numpy as np
import tensorflow as tf

from tf_lars.distribute.batch_norm import BatchNormStatistics
from tf_lars.distribute.fit_checks import optimizers_of
from tf_lars.distribute.meeting import check_equal, gather
from tf_lars.distribute.replicas import is_first_worker
from tf_lars.errors import InputError
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import first_epoch

_WRITERS = {
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.ModelCheckpoint: "filepath",
}


def on_this_worker(
    callbacks: list[keras.callbacks.Callback],
    strategy: tf.distribute.Strategy,
    *,
    epochs: int,
    initial_epoch: int,
) -> list[keras.callbacks.Callback]:
    """Returns what this worker runs for the user's callbacks.

    Args:
      callbacks: Those of the user.
      strategy: Strategy of the workers, each of which must call this.
      epochs: Argument of `fit`.
      initial_epoch: Argument of `fit`.

    Raises:
      InputError: If two workers would write to the same file, or one would not restore a backup.
    """
    _check_paths(callbacks, strategy)
    ours = _restored_by_all(callbacks, strategy)
    return [_AverageBatchNorm(), *ours, _Agreement(epochs, initial_epoch)]


class _AverageBatchNorm(keras.callbacks.Callback):
    """Averages the statistics before the user's callbacks, which may save the model."""

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        self._statistics = BatchNormStatistics(
            self.model, strategy, lambda data: keras.utils.unpack_x_y_sample_weight(data)[0]
        )

    def on_test_begin(self, logs=None):
        self._statistics.average()

    def on_epoch_end(self, epoch, logs=None):
        self._statistics.average()


class _Agreement(keras.callbacks.Callback):
    """Checks after the user's callbacks that workers agree, and ends the run if they do not."""

    def __init__(self, epochs: int, initial_epoch: int):
        super().__init__()
        self._epochs = epochs
        self._given_epoch = initial_epoch

    def on_train_begin(self, logs=None):
        check_equal(
            self.model.distribute_strategy,
            {"first epoch": first_epoch(self.model, self._given_epoch) + 1, "epochs": self._epochs},
            "All workers must train the same epochs.",
            "A callback that restores a run must do so on every worker, from the same backup: pass "
            "BackupAndRestore on every worker, with one folder that all of them can read.",
        )

    def on_epoch_begin(self, epoch, logs=None):
        iterations = {
            f"iterations of {one.name}": int(one.iterations.numpy())
            for one in optimizers_of(self.model)
        }
        check_equal(
            self.model.distribute_strategy,
            {"epoch": epoch + 1, **iterations, "checksum of the weights": _checksum(self.model)},
            "All workers must begin an epoch with the same model.",
            "What restores or changes the model must do so on every worker: pass BackupAndRestore "
            "on every worker, with one folder that all of them can read.",
        )

    def on_epoch_end(self, epoch, logs=None):
        rates = {
            f"learning rate of {one.name}": float(keras.ops.convert_to_numpy(one.learning_rate))
            for one in optimizers_of(self.model)
        }
        check_equal(
            self.model.distribute_strategy,
            {"stop_training": bool(self.model.stop_training), **rates},
            "A callback that stops training or sets the learning rate must do so on every worker.",
            f"This is after epoch {epoch + 1}. Pass the same callbacks on every worker.",
        )


class _RestoreOnly(keras.callbacks.Callback):
    """Restores a backup that another worker writes, after that worker."""

    def __init__(self, backup: keras.callbacks.BackupAndRestore):
        super().__init__()
        self._backup = backup

    def on_train_begin(self, logs=None):
        gather(self.model.distribute_strategy, [0], tf.int64)
        self._backup.set_model(self.model)
        self._backup.on_train_begin(logs)


def _restored_first(
    callback: keras.callbacks.BackupAndRestore, strategy: tf.distribute.Strategy
) -> keras.callbacks.Callback:
    """Returns a backup that lets the others restore, too, once this worker has or has failed to.

    Restoring may include repairing the files.
    """
    first = copy.copy(callback)

    def on_train_begin(logs=None):
        try:
            type(callback).on_train_begin(first, logs)
        finally:
            gather(strategy, [0], tf.int64)

    setattr(first, "on_train_begin", on_train_begin)  # noqa: B010
    return first


def _restored_by_all(callbacks: list, strategy: tf.distribute.Strategy) -> list:
    """Returns the callbacks so that the first worker alone writes a backup of all."""
    kind = keras.callbacks.BackupAndRestore
    folders = [str(c.backup_dir) for c in callbacks if isinstance(c, kind)]
    path = _number(folders) if folders else 0
    paths = gather(strategy, [path], tf.int64).tolist()
    if not all(paths) and any(paths):
        without = [rank for rank, one in enumerate(paths) if not one]
        raise InputError(
            "After a restart, all workers must restore the same backup. Received: no "
            f"BackupAndRestore on the workers {without}. Pass it on every worker, with one folder "
            "that all of them can read: the first worker alone writes there."
        )
    if len(set(paths)) == len(paths) or not folders:  # each has its own, or there is none
        return callbacks
    if len(set(paths)) > 1:
        raise InputError(
            "The workers must have one folder for backups, or each its own. Received: "
            f"{folders} on some workers, and others elsewhere. Pass the same folder on every "
            "worker."
        )
    is_first = is_first_worker(strategy)
    return [
        callback
        if not isinstance(callback, kind)
        else (_restored_first(callback, strategy) if is_first else _RestoreOnly(callback))
        for callback in callbacks
    ]


def _check_paths(callbacks: list, strategy: tf.distribute.Strategy) -> None:
    """Checks that no two workers write to one file; backups have their own rules."""
    paths = {}
    for callback in callbacks:
        for kind, attribute in _WRITERS.items():
            if isinstance(callback, kind):
                path = str(getattr(callback, attribute))
                paths[_number(path)] = f"{kind.__name__} with {path!r}"
    everyone = gather(strategy, [0, *paths], tf.int64).tolist()
    twice = sorted({path for path in everyone if path and everyone.count(path) > 1})
    if twice:
        raise InputError(
            "Two workers must not write to the same file. Received on several workers: "
            f"{paths.get(twice[0], 'a callback that writes')}. Pass this callback on worker 0 "
            "only, or give each worker its own path."
        )


def _number(path: object) -> int:
    """Returns a number of 56 bits for a path; never 0 in practice."""
    return int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:7], "little")


def _checksum(model: keras.Model) -> int:
    """Returns a number of 32 bits for the trainable weights, in one pass over them."""
    integers = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}
    sums = []
    for variable in model.trainable_variables:
        value = tf.convert_to_tensor(native_variable(variable))
        bits = tf.bitcast(value, integers[value.dtype.size])
        sums.append(tf.cast(tf.reduce_sum(bits), tf.int64).numpy())
    return zlib.crc32(np.array(sums, np.int64).tobytes())

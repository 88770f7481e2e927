"""Reports metrics and checkpoints of Keras's `fit` and `Trainer.fit` to Ray Train."""

import contextlib
import os
import tempfile
from collections.abc import Mapping
from numbers import Real
from typing import Any

import keras
import ray.train

from tf_lars.errors import InputError
from tf_lars.private_api import strategy_of
from tf_lars.setting import at_least, whole_number
from tf_lars.training import checkpoint_folder

_FOLDER = "checkpoint"


class RayReport(keras.callbacks.Callback):
    """Reports each epoch to Ray Train: its metrics, and a checkpoint to resume from.

    To be passed to `fit` on every worker: all of them read their variables and meet in
    `ray.train.report`, but rank 0 alone writes the checkpoint, and its metrics and checkpoint
    are those of Ray's `Result`. `restore` reads it.

    Metrics are Keras's logs, `epoch`, counted from 1, and `step`. The checkpoint is a folder of the
    format of this package, with weights, random states of layers, and the optimizer's state.

    Args:
      checkpoint_every: Epochs between checkpoints; metrics are reported after every epoch. The last
        epoch of `fit` always has a checkpoint.

    Raises:
      InputError: `checkpoint_every` is not a whole number of at least 1, or `fit` runs outside
        of a worker of Ray Train.
    """

    def __init__(self, checkpoint_every: int = 1):
        super().__init__()
        self._every = whole_number("`checkpoint_every`", checkpoint_every, at_least(1))

    def on_train_begin(self, logs=None):
        """Checks that this is a worker of Ray Train."""
        self._rank = _rank()

    def on_epoch_end(self, epoch, logs=None):
        """Reports the epoch; returns when all workers have."""
        metrics = {name: float(v) for name, v in (logs or {}).items() if isinstance(v, Real)}
        metrics.setdefault("step", int(self.model.optimizer.iterations.numpy()))
        metrics["epoch"] = epoch + 1
        is_last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if (epoch + 1) % self._every and not is_last:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="tf_lars-ray-") as folder:
            ray.train.report(metrics, checkpoint=self._write(folder, metrics))

    def _write(self, folder: str, metrics: Mapping[str, float]) -> ray.train.Checkpoint | None:
        """Writes the checkpoint on rank 0; the other workers read their variables only."""
        variables = checkpoint_folder.variables_of(self.model)
        if self._rank:
            checkpoint_folder.write_variables(variables, folder)
            return None
        path = os.path.join(folder, _FOLDER)
        checkpoint_folder.write(
            variables,
            path,
            os.path.join(folder, "partial"),
            step=round(metrics["step"]),
            settings={},
            history=[dict(metrics)],
            skipped_steps=round(metrics.get("skipped_steps", 0)),
        )
        return ray.train.Checkpoint.from_directory(path)


def restore(model: keras.Model, checkpoint: ray.train.Checkpoint | None = None) -> int:
    """Restores a model and its optimizer from a checkpoint of `RayReport`.

    Args:
      model: Compiled and built model: one with a `keras.Input`, or after `model.build`.
      checkpoint: Checkpoint, such as that of a `Result`; by default `ray.train.get_checkpoint()`,
        from which Ray has a restarted worker resume. All workers must call this, before the first
        report: later, Ray answers each rank with the last one that it has reported.

    Returns:
      Number of epochs that were trained, the `initial_epoch` of the next `fit`; 0 if there is
      no checkpoint, when the model stays as it is.

    Raises:
      InputError: The model is not built, or the checkpoint is not one of this model.
    """
    if not model.compiled or not model.built:
        raise InputError(
            "A model must be compiled and built before it is restored. Received: "
            f"{model.name!r}, which is not. Give it a keras.Input, or call model.build first."
        )
    if checkpoint is None:
        _rank()
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
    strategy = strategy_of(model)
    with strategy.scope() if strategy else contextlib.nullcontext():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    with checkpoint.as_directory() as folder:
        found = checkpoint_folder.open_checkpoint(folder)
        if found is None or not found.history:
            raise InputError(
                f"A checkpoint must be complete, and one of RayReport. Received: {checkpoint.path}."
                " Give another one."
            )
        found.read_into(model)
    return round(found.history[-1]["epoch"])


def _rank() -> int:
    """Returns the rank of this worker of Ray Train."""
    return within_worker().get_world_rank()


def within_worker() -> Any:
    """Returns the context of this worker of Ray Train.

    Raises:
      InputError: This process is not one.
    """
    try:
        context = ray.train.get_context()
        context.get_world_size()
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            "RayReport, restore and Ray's data shards need a worker of Ray Train. Received: "
            "another process. Call this in the function that Ray's trainer runs on its workers."
        ) from error
    return context

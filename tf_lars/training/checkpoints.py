"""Atomic checkpoints, tied to the settings of their run.

A checkpoint is a folder such as `step-00000084`. It holds all variables of the model, including
random states, and the optimizer's state, written by `tf.train.Checkpoint`, and `state.json`: the
step, the history, the run's settings and the SHA-256 of each file. It is written under a temporary
name and renamed once it is complete.
"""

import dataclasses
import glob
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import tensorflow as tf
from absl import logging

from tf_lars.errors import InputError, PeerFailure
from tf_lars.training.checkpoint_names import (
    checkpoint_names,
    name_of,
    nothing_to_resume,
    step_of,
)

_PARTIAL = ".writing-"
_STATE = "state.json"
_JOB = ".job"
_NONE = -1

VISIBLE_SECONDS = 60.0
"""Time limit for a network file system to show a checkpoint that another host has found."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
      path: Path of the folder.
      step: Number of global batches trained on.
      settings: Settings of the run, by name.
      history: History of the run, one entry per epoch.
    """

    path: str
    step: int
    settings: Mapping[str, object]
    history: list[dict[str, float]]

    def read_into(self, model: keras.Model) -> None:
        """Restores the model's variables and the optimizer's state.

        Args:
          model: Built model with a built optimizer.

        Raises:
          InputError: If the checkpoint was saved from another model or optimizer.
        """
        checkpoint = _checkpoint(model)
        try:
            status = checkpoint.read(os.path.join(self.path, "checkpoint"))
            status.assert_existing_objects_matched().expect_partial()
        except (ValueError, AssertionError) as error:
            raise InputError(
                "A checkpoint fits only the model and optimizer that it was saved from. Received: "
                f"{self.path}, saved from another model or optimizer ({error}). Use that one, "
                "another folder, or --resume=never to start afresh."
            ) from error


class CheckpointStore:
    """Checkpoints of one run.

    Args:
      directory: Folder for the checkpoints, created if missing, on a file system that all workers
        share.
      settings: Settings, by name, that a run and the checkpoint it resumes from must share.
      is_chief: Whether this process writes the checkpoints.
      keep: Number of newest checkpoints to keep.
      keep_best: Name of a history entry. The checkpoint with its highest value is kept as well;
        None keeps only the newest.
      resume: "auto" resumes from a checkpoint if there is one, "must" requires one, and "never"
        starts afresh and moves older checkpoints aside.
      job: Name that all starts of one job share, and no other job uses. With "never", only the
        first start of a job starts afresh, and later ones resume. None if jobs are not restarted.

    Attributes:
      resumed_from: Path of the restored checkpoint, or None.
      resumed_step: Step of the restored checkpoint, or None.
      started_afresh: Whether the run started afresh and moved older checkpoints, if any, aside; set
        on the chief only.
    """

    def __init__(
        self,
        directory: str,
        settings: Mapping[str, object],
        *,
        is_chief: bool = True,
        keep: int = 3,
        keep_best: str | None = None,
        resume: str = "auto",
        job: str | None = None,
    ):
        self._directory = directory
        self._settings = json.loads(json.dumps(dict(settings)))
        self._is_chief = is_chief
        self._keep = keep
        self._keep_best = keep_best
        self._resume = resume
        self._job = job
        self.started_afresh = False
        self.resumed_from: str | None = None
        self.resumed_step: int | None = None

    def restore(
        self, model: keras.Model, broadcast_from_chief: Callable[[int], int] = int
    ) -> list[dict[str, float]]:
        """Restores the newest complete checkpoint into a model and its optimizer.

        Args:
          model: Built model with a built optimizer.
          broadcast_from_chief: Function that returns, on every worker, the number that the chief
            passes to it: all workers restore the checkpoint that the chief has found.

        Returns:
          The history so far; empty if there is no checkpoint.

        Raises:
          InputError: If the checkpoint belongs to a run with other settings, or `resume` is "must"
            and there is no checkpoint.
          PeerFailure: If this worker does not see the chief's checkpoint.
        """
        newest = self._newest() if self._is_chief else None
        step = broadcast_from_chief(newest.step if newest else _NONE)
        if step != _NONE:
            newest = newest or self._of_step(step)
            self._check_settings(newest)
            newest.read_into(model)
            self.resumed_from, self.resumed_step = newest.path, newest.step
            return newest.history
        if self._resume == "must":
            raise nothing_to_resume(self._directory)
        return []

    def _newest(self) -> Checkpoint | None:
        """Removes partial checkpoints, and returns the one that the chief resumes from."""
        partial = os.path.join(self._directory, f"{_PARTIAL}*")
        for path in glob.glob(partial):  # left by a process that was killed while writing
            shutil.rmtree(path, ignore_errors=True)
        if self._resume == "never" and not self._is_of_this_job():
            self.started_afresh = True
            if checkpoint_names(self._directory):
                move_aside(self._directory)
            if self._job:
                os.makedirs(self._directory, exist_ok=True)
                with open(os.path.join(self._directory, _JOB), "w") as file:
                    file.write(self._job)
        return next(complete_checkpoints(self._directory), None)

    def _is_of_this_job(self) -> bool:
        """Returns whether an earlier start of this job has already started afresh."""
        try:
            with open(os.path.join(self._directory, _JOB)) as file:
                return file.read() == self._job
        except FileNotFoundError:
            return False

    def _of_step(self, step: int) -> Checkpoint:
        """Waits until this worker sees the checkpoint that the chief has found, and returns it."""
        path = os.path.join(self._directory, name_of(step))
        deadline = time.monotonic() + VISIBLE_SECONDS
        while not (checkpoint := open_checkpoint(path)):
            if time.monotonic() > deadline:
                raise PeerFailure(
                    "All workers must see the checkpoint that worker 0 resumes from. Received: "
                    f"{path}, which is missing or incomplete after {VISIBLE_SECONDS:g} s."
                )
            time.sleep(1.0)
        return checkpoint

    def save(self, model: keras.Model, step: int, history: list[dict[str, float]]) -> bool:
        """Writes a checkpoint; all workers must call this, because all must read their variables.

        On a full or read-only disk, this checkpoint is lost with a warning, and the run continues.

        Returns:
          Whether this worker has done its part.
        """
        checkpoint = _checkpoint(model)
        partial = os.path.join(self._directory, f"{_PARTIAL}{os.getpid()}")
        try:
            if not self._is_chief:
                with tempfile.TemporaryDirectory() as unused:
                    checkpoint.write(os.path.join(unused, "checkpoint"))
                return True
            self._write(checkpoint, partial, step, history)
            return True
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            print(
                f"warning: no checkpoint of step {step:,} could be written to {self._directory} "
                f"({' '.join(str(error).split())[:200]}); training continues. Free some space, or "
                "make the folder writable, before the next checkpoint is due.",
                flush=True,
            )
            return False

    def _write(
        self,
        checkpoint: tf.train.Checkpoint,
        partial: str,
        step: int,
        history: list[dict[str, float]],
    ) -> None:
        """Writes the folder `partial`, renames it, and deletes checkpoints that are not kept."""
        os.makedirs(self._directory, exist_ok=True)
        path = os.path.join(self._directory, name_of(step))
        os.mkdir(partial)  # tempfile.mkdtemp would bar all other users from it
        checkpoint.write(os.path.join(partial, "checkpoint"))
        state = {
            "step": step,
            "settings": self._settings,
            "history": history,
            "sha256": {name: _sha256(os.path.join(partial, name)) for name in os.listdir(partial)},
        }
        with open(os.path.join(partial, _STATE), "w") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.rename(partial, path)
        names = checkpoint_names(self._directory)
        best = best_step(history, self._keep_best, map(step_of, names)) if self._keep_best else None
        for name in names[: -self._keep]:
            if step_of(name) != best:
                shutil.rmtree(os.path.join(self._directory, name), ignore_errors=True)

    def _check_settings(self, checkpoint: Checkpoint) -> None:
        path, saved = checkpoint.path, checkpoint.settings
        different = [
            f"{name}={saved.get(name)!r} (now {self._settings.get(name)!r})"
            for name in sorted({*saved, *self._settings})
            if saved.get(name) != self._settings.get(name)
        ]
        if different:
            raise InputError(
                f"A run can resume only from a checkpoint with the same settings. Received: {path} "
                f"with {', '.join(different)}. Use those settings, another --model_dir, or "
                "--resume=never to start afresh."
            )


def _checkpoint(model: keras.Model) -> tf.train.Checkpoint:
    """Returns the object that saves and restores a model, its random states and its optimizer."""
    # With Keras 3, TensorFlow finds neither random states nor the layers in a layer's lists and
    # dictionaries. Most variables are listed twice here; TensorFlow writes each of them once.
    state = list(model.variables)
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, state=state)


def move_aside(directory: str) -> None:
    """Renames a folder, if it is not empty, by appending the time to its name."""
    if os.path.isdir(directory) and os.listdir(directory):
        name = f"{directory}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        aside = next(name for name in names if not os.path.exists(name))
        os.rename(directory, aside)
        logging.info("%s is now %s.", directory, aside)


def complete_checkpoints(directory: str) -> Iterator[Checkpoint]:
    """Yields the complete checkpoints in a folder, newest first; warns about the others."""
    for name in reversed(checkpoint_names(directory)):
        path = os.path.join(directory, name)
        checkpoint = open_checkpoint(path)
        if checkpoint:
            yield checkpoint
        else:
            logging.warning("Skipping the checkpoint %s: it is incomplete or damaged.", path)


def open_checkpoint(path: str) -> Checkpoint | None:
    """Returns a checkpoint, or None if any part of it is missing or damaged.

    Raises:
      InputError: If it may not be read.
    """
    try:
        with open(os.path.join(path, _STATE)) as file:
            state = json.load(file)
        checkpoint = Checkpoint(path, state["step"], state["settings"], state["history"])
        whole = all(
            _sha256(os.path.join(path, name)) == digest for name, digest in state["sha256"].items()
        )
    except PermissionError as error:
        raise InputError(
            f"Checkpoints must be readable. Received: {error}. Change the permissions, use another "
            "folder, or run as the user who wrote it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return checkpoint if whole else None


def best_step(
    history: Iterable[Mapping[str, float]], metric: str, steps: Iterable[int]
) -> int | None:
    """Returns the step after which a metric was highest; on a tie, the last one.

    Args:
      history: History of the run.
      metric: Name of a history entry.
      steps: Steps to choose from, such as those of the existing checkpoints.

    Returns:
      The best step, or None if the metric was not evaluated at any of the steps.
    """
    values = {entry["step"]: entry[metric] for entry in history if metric in entry}
    return max(
        (step for step in steps if step in values),
        key=lambda step: (values[step], step),
        default=None,
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

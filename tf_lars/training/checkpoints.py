"""Checkpoints that are whole or not there, and that know which run they belong to.

A checkpoint is a folder `step-00000084` with all variables of the model, random states included,
and the optimizer's state, written by `tf.train.Checkpoint`, and `state.json`: the step, the
history, the run's settings and the SHA-256 of each file. It is written under another name and
renamed when it is complete.
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
"""How long a network file system may take to show a checkpoint that another host has found."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
      path: its folder.
      step: global batches trained on.
      settings: of its run, by name.
      history: of its run, an entry per epoch.
    """

    path: str
    step: int
    settings: Mapping[str, object]
    history: list[dict[str, float]]

    def read_into(self, model: keras.Model) -> None:
        """Restores the model's variables and the optimizer's state.

        Args:
          model: built, and its optimizer too.

        Raises:
          InputError: it is another model or optimizer.
        """
        checkpoint = _checkpoint(model)
        try:
            status = checkpoint.read(os.path.join(self.path, "checkpoint"))
            status.assert_existing_objects_matched().expect_partial()
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"A checkpoint fits only the model and optimizer that it was made of. Received: "
                f"another model or optimizer than that of {self.path} ({error}). Use that one, "
                "another folder, or --resume=never to start anew."
            ) from error


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      directory: folder for them, created at need, and on a file system that all workers share.
      settings: what a run must have in common with the checkpoint that it goes on from, by name.
      is_chief: whether this process is the one that writes.
      keep: how many of the newest to keep.
      keep_best: name of an entry of the history; the checkpoint in which it is highest is kept
        too. None keeps the newest only.
      resume: "auto" goes on where there is a checkpoint, "must" insists on one, "never" starts
        anew and moves older checkpoints aside.
      job: a name that all starts of one job share, and no other job has: "never" starts anew once
        in a job, and its later starts go on. None where nobody starts a job again.

    Attributes:
      resumed_from: path of the checkpoint that was restored, or None.
      resumed_step: its step.
      started_anew: whether older checkpoints, if any, were moved aside; known to the chief.
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
        self.started_anew = False
        self.resumed_from: str | None = None
        self.resumed_step: int | None = None

    def restore(
        self, model: keras.Model, of_first_worker: Callable[[int], int] = int
    ) -> list[dict[str, float]]:
        """Restores the newest whole checkpoint into a built model and its optimizer.

        Args:
          model: built, and its optimizer too.
          of_first_worker: returns, on every worker, the number that the first of them, the chief,
            calls it with: all workers restore the checkpoint that the chief has found.

        Returns:
          The history so far; empty where there is no checkpoint.

        Raises:
          InputError: the checkpoint belongs to a run with other settings, or `resume` is "must"
            and there is none.
          PeerFailure: this worker does not see the chief's checkpoint.
        """
        newest = self._newest() if self._is_chief else None
        step = of_first_worker(newest.step if newest else _NONE)
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
        """Returns what the chief goes on from, after it has cleared away what is in the way."""
        partial = os.path.join(self._directory, f"{_PARTIAL}*")
        for path in glob.glob(partial):  # of a process that was killed as it wrote
            shutil.rmtree(path, ignore_errors=True)
        if self._resume == "never" and not self._is_of_this_job():
            self.started_anew = True
            if checkpoint_names(self._directory):
                move_aside(self._directory)
            if self._job:
                os.makedirs(self._directory, exist_ok=True)
                with open(os.path.join(self._directory, _JOB), "w") as file:
                    file.write(self._job)
        return next(whole_checkpoints(self._directory), None)

    def _is_of_this_job(self) -> bool:
        """Returns whether an earlier start of this job has started anew in the folder."""
        try:
            with open(os.path.join(self._directory, _JOB)) as file:
                return file.read() == self._job
        except FileNotFoundError:
            return False

    def _of_step(self, step: int) -> Checkpoint:
        """Returns the checkpoint that the chief has found, as soon as this worker sees it."""
        path = os.path.join(self._directory, name_of(step))
        deadline = time.monotonic() + VISIBLE_SECONDS
        while not (checkpoint := open_checkpoint(path)):
            if time.monotonic() > deadline:
                raise PeerFailure(
                    "All workers must see the checkpoint that worker 0 goes on from. Received: "
                    f"{path} is not there, or not whole, after {VISIBLE_SECONDS:g} s."
                )
            time.sleep(1.0)
        return checkpoint

    def save(self, model: keras.Model, step: int, history: list[dict[str, float]]) -> bool:
        """Writes a checkpoint. Every worker must call this, because all take part in reading.

        A full or read-only disk costs the run this checkpoint and a warning, and no more.

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
                f"({' '.join(str(error).split())[:200]}); training goes on. Make room, or make it "
                "writable, before the next one is due.",
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
        """Writes the folder `partial`, gives it its name, and removes what need not be kept."""
        os.makedirs(self._directory, exist_ok=True)
        path = os.path.join(self._directory, name_of(step))
        os.mkdir(partial)  # tempfile.mkdtemp would keep it from all other users for good
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
                f"A run can go on only from a checkpoint with the same settings. Received: {path} "
                f"with {', '.join(different)}. Use those settings, another --model_dir, or "
                "--resume=never to start anew."
            )


def _checkpoint(model: keras.Model) -> tf.train.Checkpoint:
    """Returns what writes and reads the model's variables, random states and optimizer."""
    # In Keras 3 TensorFlow does not find the layers in a list or dictionary of a layer by itself,
    # nor random states. A variable that it finds twice, as here most are, is written once.
    state = list(model.variables)
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, state=state)


def move_aside(directory: str) -> None:
    """Gives a folder that holds anything another name, with the time in it."""
    if os.path.isdir(directory) and os.listdir(directory):
        name = f"{directory}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        aside = next(name for name in names if not os.path.exists(name))
        os.rename(directory, aside)
        logging.info("%s is now %s.", directory, aside)


def whole_checkpoints(directory: str) -> Iterator[Checkpoint]:
    """Yields the checkpoints in a folder, the newest first; warns of those that are not whole."""
    for name in reversed(checkpoint_names(directory)):
        path = os.path.join(directory, name)
        checkpoint = open_checkpoint(path)
        if checkpoint:
            yield checkpoint
        else:
            logging.warning("Skipping the checkpoint %s: it is not whole.", path)


def open_checkpoint(path: str) -> Checkpoint | None:
    """Returns a checkpoint, or None where anything of it is missing or damaged."""
    try:
        with open(os.path.join(path, _STATE)) as file:
            state = json.load(file)
        checkpoint = Checkpoint(path, state["step"], state["settings"], state["history"])
        whole = all(
            _sha256(os.path.join(path, name)) == digest for name, digest in state["sha256"].items()
        )
    except PermissionError as error:
        raise InputError(
            f"Only checkpoints that may be read are of use. Received: {error}. Change the "
            "permissions, name another folder, or start as the user who wrote it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return checkpoint if whole else None


def best_step(
    history: Iterable[Mapping[str, float]], metric: str, steps: Iterable[int]
) -> int | None:
    """Returns the step, of those given, after which a metric was highest; of equals, the last.

    Args:
      history: of the run.
      metric: the name of an entry of the history.
      steps: those of the checkpoints that there are.

    Returns:
      None where the metric was not evaluated at any of these steps.
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

"""The checkpoints of a run, which only that run restores, and one process at a time writes."""

import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

import keras
import tensorflow as tf
from absl import logging

from tf_lars import files
from tf_lars.errors import InputError, PeerFailure
from tf_lars.training import checkpoint_folder
from tf_lars.training.checkpoint_folder import (
    Checkpoint,
    best_step,
    complete_checkpoints,
    open_checkpoint,
)
from tf_lars.training.checkpoint_names import (
    checkpoint_names,
    name_of,
    nothing_to_resume,
    step_of,
)
from tf_lars.training.run_lock import RunLock

_PARTIAL = ".writing-"
_JOB = ".job"
_NONE, _IN_USE = -1, -2

VISIBLE_SECONDS = 60.0
"""Time limit for a network file system to show a checkpoint that another host has found."""


class CheckpointStore:
    """Checkpoints of one run.

    Args:
      directory: Folder for the checkpoints, created if missing, on a file system that all workers
        share; local, or remote such as `gs://bucket/run`.
      settings: Settings, by name, that a run and the checkpoint it resumes from must share.
      is_chief: Whether this process writes the checkpoints.
      keep: Number of newest checkpoints to keep.
      keep_best: Name of a history entry. The checkpoint with its highest value is kept as well;
        None keeps only the newest.
      resume: "auto" resumes from a checkpoint if there is one, "must" requires one, and "never"
        starts afresh and moves older checkpoints aside.
      continues: Function that returns whether a checkpoint with other settings is the end of a run
        that this one continues.
      job: Name that all starts of one job share, and no other job uses. With "never", only the
        first start of a job starts afresh, and later ones resume. None if jobs are not restarted.

    Attributes:
      resumed_from: Path of the restored checkpoint, or None.
      resumed_step: Step of the restored checkpoint, or None.
      resumed_skipped_steps: How many of its steps were skipped; None if that is not known.
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
        continues: Callable[[Checkpoint], bool] = lambda checkpoint: False,
        job: str | None = None,
    ):
        self._directory = directory
        self._settings = json.loads(json.dumps(dict(settings)))
        self._is_chief = is_chief
        self._keep = keep
        self._keep_best = keep_best
        self._resume = resume
        self._continues = continues
        self._job = job
        self._lock: RunLock | None = None
        self.started_afresh = False
        self.resumed_from: str | None = None
        self.resumed_step: int | None = None
        self.resumed_skipped_steps: int | None = None

    @contextlib.contextmanager
    def exclusive(self, broadcast_from_chief: Callable[[int], int] = int) -> Iterator[None]:
        """Within this context, no other run writes to the folder; contexts may be nested.

        Args:
          broadcast_from_chief: See `restore`.

        Raises:
          InputError: If another run is using the folder; on the other workers, `PeerFailure`.
        """
        if self._lock:
            yield
            return
        self._lock = RunLock(self._directory, self._job)
        try:
            self._acquire(self._lock, broadcast_from_chief)
            yield
        finally:
            self._lock.release()
            self._lock = None

    def _acquire(self, lock: RunLock, broadcast_from_chief: Callable[[int], int]) -> None:
        refusal = None
        if self._is_chief:
            try:
                lock.acquire()
            except InputError as error:
                refusal = error
        if broadcast_from_chief(_IN_USE if refusal else 0) == _IN_USE:
            raise refusal or PeerFailure(f"worker 0 may not write to {self._directory}")

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
            self.resumed_skipped_steps = newest.skipped_steps
            return newest.history
        if self._resume == "must":
            raise nothing_to_resume(self._directory)
        return []

    def _newest(self) -> Checkpoint | None:
        """Removes partial checkpoints, and returns the one that the chief resumes from."""
        if files.is_folder(self._directory):
            for name in files.names(self._directory, hidden=True):
                if name.startswith(_PARTIAL):  # left by a process that was killed while writing
                    _remove_folder(os.path.join(self._directory, name))
        if self._resume == "never" and not self._is_of_this_job():
            self.started_afresh = True
            if checkpoint_names(self._directory):
                move_aside(self._directory)
            if self._job:
                files.make_folder(self._directory)
                with files.open_file(os.path.join(self._directory, _JOB), "w") as file:
                    file.write(self._job)
        return next(complete_checkpoints(self._directory), None)

    def _is_of_this_job(self) -> bool:
        """Returns whether an earlier start of this job has already started afresh."""
        path = os.path.join(self._directory, _JOB)
        if not files.exists(path):
            return False
        with files.open_file(path, "r") as file:
            return file.read() == self._job

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

    def save(
        self,
        model: keras.Model,
        step: int,
        history: list[dict[str, float]],
        skipped_steps: int = 0,
    ) -> bool:
        """Writes a checkpoint; all workers must call this, because all must read their variables.

        On a full or read-only disk, this checkpoint is lost with a warning, and the run continues.

        Returns:
          Whether this worker has done its part.
        """
        variables = checkpoint_folder.variables_of(model)
        partial = os.path.join(self._directory, f"{_PARTIAL}{os.getpid()}")
        try:
            if not self._is_chief:
                with tempfile.TemporaryDirectory() as unused:
                    checkpoint_folder.write_variables(variables, unused)
                return True
            checkpoint_folder.write(
                variables,
                os.path.join(self._directory, name_of(step)),
                partial,
                step=step,
                settings=self._settings,
                history=history,
                skipped_steps=skipped_steps,
            )
            self._remove_old(history)
            return True
        except (OSError, InputError, tf.errors.OpError) as error:
            _remove_folder(partial)
            print(
                f"warning: no checkpoint of step {step:,} could be written to {self._directory} "
                f"({' '.join(str(error).split())[:200]}); training continues. Free some space, or "
                "make the folder writable, before the next checkpoint is due.",
                flush=True,
            )
            return False

    def _remove_old(self, history: list[dict[str, float]]) -> None:
        """Removes the checkpoints that are not kept."""
        names = checkpoint_names(self._directory)
        best = best_step(history, self._keep_best, map(step_of, names)) if self._keep_best else None
        for name in names[: -self._keep]:
            if step_of(name) != best:
                _remove_folder(os.path.join(self._directory, name))

    def _check_settings(self, checkpoint: Checkpoint) -> None:
        saved, now = checkpoint.settings, self._settings
        names = [n for n in sorted({*saved, *now}) if saved.get(n) != now.get(n)]
        if not names or self._continues(checkpoint):
            return
        different = ", ".join(f"{n}={saved.get(n)!r} (now {now.get(n)!r})" for n in names)
        longer = {"epochs", "extended_from_epochs"} & set(names)
        extend = "--extend to train a finished run on, " if longer else ""
        raise InputError(
            "A run can resume only from a checkpoint with the same settings. Received: "
            f"{checkpoint.path} with {different}. Use those settings, {extend}another --model_dir, "
            "or --resume=never to start afresh."
        )


def move_aside(path: str) -> None:
    """Renames a file or a folder, if it is not empty, by appending the time to its name."""
    is_folder = files.is_folder(path)
    if not (files.names(path, hidden=True) if is_folder else files.size(path)):
        return
    name = f"{path}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    aside = next(name for name in names if not files.exists(name))
    (files.rename_folder if is_folder else files.rename)(path, aside)
    logging.info("%s is now %s.", path, aside)


def _remove_folder(path: str) -> None:
    """Removes a folder, or as much of it as can be removed."""
    with contextlib.suppress(OSError, InputError, tf.errors.OpError):
        files.remove_folder(path)

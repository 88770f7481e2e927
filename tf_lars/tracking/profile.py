"""Profiles of chosen steps, for TensorBoard's profile page and xprof."""

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tf_lars import files

STEPS_FOLDER = os.path.join("plugins", "profile")


class Profile(keras.callbacks.Callback):
    """Profiles chosen steps, each in a call of the loop by itself.

    | folder | meaning | unit | when |
    |---|---|---|---|
    | `plugins/profile/step_20` | trace of step 20, `*.xplane.pb` | picoseconds | after this step |

    Only this process and its devices are profiled. A profiler that fails costs one warning, and no
    further step is profiled.

    Args:
      folder: Folder for the traces: that of a run of TensorBoard.
      steps: Numbers of the steps to profile, from 1.
    """

    def __init__(self, folder: str, steps: Iterable[int]):
        super().__init__()
        self._folder = folder
        self._steps = frozenset(steps)
        self._boundaries = sorted({boundary for s in self._steps for boundary in (s - 1, s)})
        self._step: int | None = None
        self._before: set[str] = set()
        self._mark: Any = None
        self._failed = False

    def next_boundary(self, step: int) -> int | None:
        """Returns the next step after `step` at which a call of the loop must end."""
        return next((boundary for boundary in self._boundaries if boundary > step), None)

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the profiler, if the next step is to be profiled."""
        step = int(batch) + 1
        if self._failed or step not in self._steps:
            return
        with self._or_warning():
            self._before = self._folders()
            tf.profiler.experimental.start(self._folder)
            self._step = step
            # Profile pages find steps by these marks.
            self._mark = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
            self._mark.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        """Stops the profiler and writes its trace."""
        if self._step is not None:
            self._stop()

    def on_train_end(self, logs=None):
        """Stops the profiler, if training has ended within a step."""
        if self._step is not None:
            self._stop()

    def _stop(self) -> None:
        step, self._step = self._step, None
        with self._or_warning():
            if self._mark is not None:
                self._mark.__exit__(None, None, None)
                self._mark = None
            tf.profiler.experimental.stop()
            # The profiler names folders by the second, in which several steps may end.
            parent = os.path.join(self._folder, STEPS_FOLDER)
            target = os.path.join(parent, f"step_{step}")
            for name in self._folders() - self._before:
                files.remove_folder(target)  # of an interrupted process
                files.rename_folder(os.path.join(parent, name), target)

    def _folders(self) -> set[str]:
        parent = os.path.join(self._folder, STEPS_FOLDER)
        return set(files.names(parent)) if files.is_folder(parent) else set()

    @contextlib.contextmanager
    def _or_warning(self):
        try:
            yield
        except Exception as error:
            self._failed = True
            print(
                f"warning: the profiler has failed ({str(error)[:300]}); training continues, and "
                "no further step is profiled.",
                flush=True,
            )

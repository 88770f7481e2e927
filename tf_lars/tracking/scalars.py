"""Loss, metrics and learning rate of a run."""

from collections.abc import Callable, Mapping

import keras

from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.observation import is_due, next_multiple

_BESIDE = ("step", "seconds", "images_per_second", "input_wait")
"""Entries of the logs that are not metrics, or that other callbacks write."""

_COUNTS = ("skipped_steps", "bad_records")


class ScalarLogger(keras.callbacks.Callback):
    """Writes the scalars of training and of validation, as two runs that share charts.

    | tag | run | when | meaning |
    |---|---|---|---|
    | `loss` | train, validation | interval; each evaluation | mean over the epoch so far; exact |
    | `top1`, `top5`, other metrics | train, validation | as `loss` | as `loss` |
    | `learning_rate` | train | interval | rate of the next step |
    | `skipped_steps` | train | each epoch, once there are any | count since the run began |
    | `bad_records` | train | each epoch, if some are allowed | see `BadRecordCount` |

    It opens the log, and must come before all other callbacks that write to it. After each epoch it
    flushes the log, once all callbacks have written to it.

    Args:
      log: Log to write to.
      position: Function that returns the number of steps taken.
      epoch_of: Function from a number of steps to the number of epochs they make.
      environment: What the run is computed with, by name.
      every: Interval in steps; by default each call of the loop.
    """

    def __init__(
        self,
        log: MetricLog,
        position: Callable[[], int],
        *,
        epoch_of: Callable[[int], float],
        environment: Mapping[str, object] | None = None,
        every: int | None = None,
    ):
        super().__init__()
        self._log = log
        self._position = position
        self._epoch_of = epoch_of
        self._environment = environment or {}
        self._every = every

    def next_boundary(self, step: int) -> int | None:
        """Returns the next step whose scalars are written, if an interval was given."""
        return next_multiple(step, self._every) if self._every else None

    def on_train_begin(self, logs=None):
        """Opens the log; not earlier, so that a run that is refused writes nothing."""
        self._log.begin(self._position(), self._environment)

    def on_train_batch_end(self, batch, logs=None):
        """Writes the scalars of training."""
        step = int(batch) + 1
        if is_due(step, self._every):
            self._write(step, logs or {})

    def on_epoch_end(self, epoch, logs=None):
        """Writes the scalars of the epoch, including those of validation if it ran."""
        logs = logs or {}
        step = int(logs["step"])
        if not is_due(step, self._every):
            self._write(step, logs)
        counts = {name: logs[name] for name in _COUNTS if logs.get(name) is not None}
        if not counts.get("skipped_steps"):
            counts.pop("skipped_steps", None)
        if counts:
            self._log.scalars(step, counts)
        values = {
            name.removeprefix("val_"): value
            for name, value in logs.items()
            if name.startswith("val_") and name != "val_examples"
        }
        if values:
            self._log.scalars(step, values, "validation", epoch=self._epoch_of(step))

    def after_epoch(self, step: int) -> None:
        """Has all that was written in the epoch, by whatever callback, appear in the files."""
        self._log.flush()

    def _write(self, step: int, logs: Mapping[str, float]) -> None:
        values = {
            name: value
            for name, value in logs.items()
            if name not in (*_BESIDE, *_COUNTS) and not name.startswith("val_")
        }
        self._log.scalars(step, values, epoch=self._epoch_of(step))

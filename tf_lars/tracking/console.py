"""Progress lines: epoch, step, loss, accuracy, rate and time left."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

import keras


class ProgressLine(keras.callbacks.Callback):
    """Prints progress: a line that is updated in place to a terminal, a line per epoch to a file.

    Args:
      total_steps: Steps of the whole run.
      epochs: Epochs of the whole run.
      metrics: Names of the metrics to print beside the loss.
      stream: Stream to print to; standard output by default.
      seconds_between_lines: Minimum seconds between lines within an epoch, in a file.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        epochs: int,
        metrics: Sequence[str] = ("top1",),
        stream: TextIO | None = None,
        seconds_between_lines: float = 30.0,
    ):
        super().__init__()
        self._total_steps = total_steps
        self._epochs = epochs
        self._metrics = metrics
        self._stream = stream or sys.stdout
        self._interval = seconds_between_lines
        self._epoch = 0
        self._first: tuple[float, int] | None = None
        self._printed = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the epoch for its lines."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        """Prints the progress within the epoch."""
        now, step = time.monotonic(), batch + 1
        # Measures from the end of the first call of the loop, which includes tracing.
        self._first = self._first or (now, step)
        if self._stream.isatty():
            self._stream.write("\r\x1b[K" + self._line(step, now, logs))
            self._stream.flush()
        elif now - self._printed > self._interval:
            self._printed = now
            print(self._line(step, now, logs), file=self._stream, flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Prints the results of the epoch."""
        logs = logs or {}
        self._printed = time.monotonic()
        line = self._line(logs["step"], self._printed, logs)
        if logs.get("skipped_steps"):
            line += f"  {logs['skipped_steps']} steps skipped"
        if "val_loss" in logs:
            line += f"  | validation: {self._values(logs, 'val_')}"
        if self._stream.isatty():
            line = "\r\x1b[K" + line
        print(line, file=self._stream, flush=True)

    def _line(self, step: int, now: float, logs: dict) -> str:
        return (
            f"epoch {self._epoch}/{self._epochs}  step {step:.0f}/{self._total_steps}  "
            f"{self._values(logs)}  lr {logs['learning_rate']:.4g}  "
            f"{logs['images_per_second']:,.0f} images/s  ETA {self._eta(step, now)}"
        )

    def _values(self, logs: dict, prefix: str = "") -> str:
        parts = []
        for name in ("loss", *self._metrics):
            label, form = ("top-1", ".2%") if name == "top1" else (name, ".4f")
            if prefix + name in logs:
                parts.append(f"{label} {logs[prefix + name]:{form}}")
        return "  ".join(parts)

    def _eta(self, step: int, now: float) -> str:
        if self._first is None or step <= self._first[1]:
            return "--:--"
        start, first_step = self._first
        return clock((now - start) / (step - first_step) * (self._total_steps - step))


def clock(seconds: float) -> str:
    """Returns a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Progress of a run: epoch, step, loss, accuracy, rate, time left and time spent waiting."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import keras

from tf_lars.tracking.live_bar import LiveBar

INPUT_WAIT_SHOWN = 0.05
"""Share of the time spent waiting for input above which the line says so."""

SECONDS_BETWEEN_DRAWINGS = 0.1
"""Minimum seconds between two updates of a terminal."""


class ProgressLine(keras.callbacks.Callback):
    """Prints progress: a bar over the whole run to a terminal, and a line per epoch.

    A terminal shows the bar and the current values, updated in place, below the lines of the
    finished epochs. A file gets the lines only, and further ones within long epochs.

    | part | meaning | unit | when |
    |---|---|---|---|
    | `epoch`, `step` | current one, and all of the run | count | always |
    | `loss`, `top-1`, other metrics | means over the epoch so far | top-1 in % | if in the logs |
    | `lr` | learning rate of the next step | | always |
    | `images/s` | images trained on by all replicas | 1/s | always |
    | `ETA` | time to the end, without the first call | h:mm:ss | from the second call |
    | `waiting for input` | share of `input_wait` in the logs | % | above 5 % |
    | `steps skipped` | steps whose gradients were not finite | count | end of epoch, if any |
    | `validation` | the same metrics of the evaluation | | end of epoch, if evaluated |

    Args:
      total_steps: Steps of the whole run.
      epochs: Epochs of the whole run.
      metrics: Names of the metrics to print beside the loss.
      stream: Stream to print to; standard output by default.
      seconds_between_lines: Minimum seconds between lines within an epoch, in a file.
      position: Function that returns the number of examples used before a step, which the time left
        is proportional to; by default all steps are alike.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        epochs: int,
        metrics: Sequence[str] = ("top1",),
        stream: TextIO | None = None,
        seconds_between_lines: float = 30.0,
        position: Callable[[int], float] = float,
    ):
        super().__init__()
        self._total_steps = total_steps
        self._epochs = epochs
        self._metrics = metrics
        self._stream = stream or sys.stdout
        self._interval = seconds_between_lines
        self._position = position
        self._epoch = 0
        self._first: tuple[float, int] | None = None
        self._printed = time.monotonic()
        self._bar = LiveBar(self._stream)

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the epoch for its lines."""
        self._epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        """Shows the bar before the first call of the loop, which takes long to trace."""
        if self._first is None:
            self._bar.show(self._label(), batch, self._total_steps, "", ["starting"])

    def on_train_batch_end(self, batch, logs=None):
        """Shows the progress within the epoch."""
        now, step = time.monotonic(), batch + 1
        # Measures from the end of the first call of the loop, which includes tracing.
        self._first = self._first or (now, step)
        if self._bar.is_possible:
            if now - self._printed > SECONDS_BETWEEN_DRAWINGS:
                self._printed = now
                self._bar.show(
                    self._label(),
                    step,
                    self._total_steps,
                    f"ETA {self._eta(step, now)}",
                    [self._steps(step), *self._values(logs), *self._rates(logs), *_waits(logs)],
                )
        elif now - self._printed > self._interval:
            self._printed = now
            self._print(self._line(step, now, logs))

    def on_epoch_end(self, epoch, logs=None):
        """Prints the results of the epoch."""
        logs = logs or {}
        self._printed = time.monotonic()
        line = self._line(logs["step"], self._printed, logs)
        if logs.get("skipped_steps"):
            line += f"  {logs['skipped_steps']} steps skipped"
        if "val_loss" in logs:
            line += f"  | validation: {'  '.join(self._values(logs, 'val_'))}"
        self._print(line)

    def on_train_end(self, logs=None):
        """Removes the bar; the lines of the epochs stay."""
        self._bar.close()

    def _print(self, line: str) -> None:
        if not self._bar.print_above(line):
            print(line, file=self._stream, flush=True)

    def _line(self, step: int, now: float, logs: dict) -> str:
        eta = f"ETA {self._eta(step, now)}"
        values, rates = self._values(logs), self._rates(logs)
        return "  ".join(
            [self._label(), self._steps(step), *values, *rates, eta, *_waits(logs)],
        )

    def _label(self) -> str:
        return f"epoch {self._epoch}/{self._epochs}"

    def _steps(self, step: int) -> str:
        return f"step {step:.0f}/{self._total_steps}"

    def _rates(self, logs: dict) -> list[str]:
        return [f"lr {logs['learning_rate']:.4g}", f"{logs['images_per_second']:,.0f} images/s"]

    def _values(self, logs: dict, prefix: str = "") -> list[str]:
        parts = []
        for name in ("loss", *self._metrics):
            label, form = ("top-1", ".2%") if name == "top1" else (name, ".4f")
            if prefix + name in logs:
                parts.append(f"{label} {logs[prefix + name]:{form}}")
        return parts

    def _eta(self, step: int, now: float) -> str:
        if self._first is None or step <= self._first[1]:
            return "--:--"
        start, first_step = self._first
        first, here, end = map(self._position, (first_step, int(step), self._total_steps))
        return clock((now - start) / (here - first) * (end - here))


def _waits(logs: dict) -> Iterator[str]:
    share = logs.get("input_wait", 0.0)
    if share > INPUT_WAIT_SHOWN:
        yield f"waiting for input {share:.0%}"


def clock(seconds: float) -> str:
    """Returns a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

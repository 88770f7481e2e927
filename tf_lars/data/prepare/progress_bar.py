"""Progress of long work: a bar on a terminal, an occasional plain line in a log."""

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Context manager that shows the completed work, its rate and the time left.

    Args:
        label: Name of the work, one word.
        total: Total units of work.
        unit: Name of the units, plural.
    """

    def __init__(self, label: str, total: int, unit: str):
        self.label = label
        self.total = total
        self.unit = unit
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        if sys.stdout.isatty():
            self._bar = _new_bar(self.unit)
            self._task = self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Counts `count` more units as done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)
            return
        self._done += count
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self._done / max(now - self._start, 1e-9)
            left = (self.total - self._done) / rate if rate else 0.0
            print(
                f"{self.label}: {self._done:,} of {self.total:,} {self.unit}, "
                f"{rate:,.0f} {self.unit}/s, {left:,.0f} s left",
                flush=True,
            )


def _new_bar(unit: str) -> Any:
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Units per second; rich has such a column for bytes only."""

        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            text = "?" if speed is None else f"{speed:,.0f}"
            return Text(f"{text} {unit}/s", style="progress.data.speed")

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
    )

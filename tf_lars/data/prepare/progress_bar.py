"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows how much is done, the rate and the time left; used as a context manager.

    Args:
        label: What is being done, one word.
        total: Units of work in all.
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
            self._bar = self._new_bar()
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
        self._done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate(now))
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self._rate(now)
            left = (self.total - self._done) / rate if rate else 0.0
            print(
                f"{self.label}: {self._done:,} of {self.total:,} {self.unit}, "
                f"{rate:,.0f} {self.unit}/s, {left:,.0f} s left",
                flush=True,
            )

    def _rate(self, now: float) -> float:
        return self._done / max(now - self._start, 1e-9)

    def _new_bar(self) -> Any:
        from rich import progress

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]:,.0f} " + f"{self.unit}/s"),
            progress.TimeRemainingColumn(),
        )
        self._task = bar.add_task(self.label, total=self.total, rate=0.0)
        return bar

"""A bar at the bottom of a terminal, updated in place, with lines printed above it."""

import atexit
import sys
from collections.abc import Sequence
from typing import Any, TextIO


class LiveBar:
    """Bar on a terminal; does nothing unless the stream is a terminal whose cursor can be moved.

    It has two rows, which fit any width:

        epoch 12/30 ━━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━  40%  ETA 1:02
        step 34/85  loss 0.2273  top-1 97.01%  lr 6.221  1,158 images/s

    While it is shown, other output to standard output and standard error appears above it.

    Args:
      stream: Stream to draw on.
    """

    _shown: "LiveBar | None" = None

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._live: Any = None
        self._console: Any = None
        # A terminal only: settings such as FORCE_COLOR would fill log files with control codes.
        if stream.isatty():
            from rich.console import Console

            # Long lines of others stay whole, so that they can be copied.
            console = Console(file=stream, highlight=False, soft_wrap=True)
            if console.is_terminal and not console.is_dumb_terminal:
                self._console = console

    @property
    def is_possible(self) -> bool:
        """Whether the stream is a terminal that can show the bar."""
        return self._console is not None

    def show(
        self, label: str, done: float, total: float, right: str, details: Sequence[str]
    ) -> None:
        """Shows the bar, or updates it.

        Args:
          label: Text before the bar.
          done: Finished part of the work.
          total: All of the work.
          right: Text after the bar and its percentage.
          details: Parts of the second row; those that fit into the width are shown.
        """
        if self._console is None:
            return
        rows = _rows(label, done, total, right, details, self._console.width)
        if self._live is None:
            self._start(rows)
        self._live.update(rows, refresh=True)

    def _start(self, rows: Any) -> None:
        from rich.live import Live

        if LiveBar._shown is not None:  # that of a training that ended with an error
            LiveBar._shown.close()
        LiveBar._shown = self
        self._live = Live(
            rows,
            console=self._console,
            auto_refresh=False,
            transient=True,
            # What goes to a file is not for the terminal.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()
        # A process that is killed would leave the terminal without a cursor.
        self._console.show_cursor(True)
        atexit.register(self.close)

    def print_above(self, line: str) -> bool:
        """Prints a line above the bar; returns False if the stream has no bar."""
        if self._console is None:
            return False
        from rich.text import Text

        self._console.print(Text(line))
        return True

    def close(self) -> None:
        """Removes the bar from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = LiveBar._shown = None
            atexit.unregister(self.close)


def _rows(
    label: str, done: float, total: float, right: str, details: Sequence[str], width: int
) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    percentage = f"{done / total if total else 1.0:4.0%}"
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True, overflow="crop")
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, overflow="crop")
    bar.add_row(
        Text(label),
        ProgressBar(total=total, completed=done),
        Text(f"{percentage}  {right}".rstrip()),
    )
    text = ""
    for part in details:
        longer = f"{text}  {part}" if text else part
        if len(longer) > width:
            break
        text = longer
    return Group(bar, Text(text, no_wrap=True, overflow="crop"))

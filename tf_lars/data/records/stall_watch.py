"""Reports reads that hang, which look like a slow network otherwise, with their file."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from absl import logging

from tf_lars.errors import EXIT_PEER_FAILED

WARNING_SECONDS = 30.0
"""Seconds after which a read is reported, and between further reports of it."""
LIMIT_SECONDS = 600.0
"""Seconds after which a read ends the process: nothing else can end the read."""


class StallWatch:
    """Watchdog for the reads of a process, in a thread that starts with the first read.

    Args:
      warning_seconds: See `WARNING_SECONDS`.
      limit_seconds: See `LIMIT_SECONDS`.
    """

    def __init__(
        self, warning_seconds: float = WARNING_SECONDS, limit_seconds: float = LIMIT_SECONDS
    ):
        self._warning_seconds = warning_seconds
        self._limit_seconds = limit_seconds
        # By thread: path, start of the read, time of its next report.
        self._reads: dict[int, list] = {}
        self._started = threading.Lock()

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Marks the work of this thread in the context as a read of `path`."""
        if self._started.acquire(blocking=False):  # never released: one thread is enough
            threading.Thread(target=self._watch, daemon=True).start()
        thread, now = threading.get_ident(), time.monotonic()
        self._reads[thread] = [path, now, now + self._warning_seconds]
        try:
            yield
        finally:
            del self._reads[thread]

    def _watch(self) -> None:
        while True:
            time.sleep(self._warning_seconds / 10)
            for read in list(self._reads.values()):
                path, start, next_warning = read
                seconds = time.monotonic() - start
                if seconds >= self._limit_seconds:
                    print(
                        f"error: storage must answer within {self._limit_seconds:.0f} s. Received: "
                        f"nothing for {seconds:.0f} s from {path}. Check that file system.",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(EXIT_PEER_FAILED)
                if start + seconds >= next_warning:
                    read[2] += self._warning_seconds
                    logging.warning("No data for %.0f s: still reading %s.", seconds, path)


STALL_WATCH = StallWatch()
"""The watchdog of this process."""

"""Says which file storage is silent about: a read that hangs cannot be told from a slow network."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from absl import logging

from tf_lars.errors import EXIT_PEER_FAILED

WARNING_SECONDS = 30.0
"""A read that has taken so long is named, and named again after as long."""
LIMIT_SECONDS = 600.0
"""A read that has taken so long ends the process: nothing else can end it."""


class StallWatch:
    """Watches over the reads of a process from a thread of its own, which starts with the first.

    Args:
      warning_seconds: see `WARNING_SECONDS`.
      limit_seconds: see `LIMIT_SECONDS`.
    """

    def __init__(
        self, warning_seconds: float = WARNING_SECONDS, limit_seconds: float = LIMIT_SECONDS
    ):
        self._warning_seconds = warning_seconds
        self._limit_seconds = limit_seconds
        # By thread: the path, when the read began, when to speak of it next.
        self._reads: dict[int, list] = {}
        self._started = threading.Lock()

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Marks what this thread does as a read of `path`."""
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

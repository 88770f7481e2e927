"""Cleans up after a test even if its process is killed, as by pytest's time limit.

Run as a program, it waits for the end of its standard input and then cleans up.
"""

import contextlib
import importlib
import subprocess
import sys

from tests.helpers import programs


@contextlib.contextmanager
def call(module, function, *arguments):
    """Calls `module.function(*arguments)` when the block or this process ends.

    The arguments are strings. The call is made in another process, and has returned when the block
    is left.
    """
    cleaner = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.afterwards", module, function, *arguments],
        cwd=programs.ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,  # not reached by Ctrl-C
    )
    try:
        yield
    finally:
        cleaner.stdin.close()
        if cleaner.wait():
            raise RuntimeError(f"{module}.{function}{arguments} failed; see standard error.")


if __name__ == "__main__":
    sys.stdin.read()
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])

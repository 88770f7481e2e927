"""Cleaning up after a test even when its process is killed, as pytest's time limit does.

Run as a program, it waits for the end of its standard input and then does the cleaning.
"""

import contextlib
import importlib
import subprocess
import sys

from tests.helpers import programs


@contextlib.contextmanager
def call(module, function, *arguments):
    """Calls `module.function(*arguments)`, which are texts, when the block ends or this process.

    The call is made in another process, and has been made when the block is left.
    """
    cleaner = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.afterwards", module, function, *arguments],
        cwd=programs.ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
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

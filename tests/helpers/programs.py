"""Runs the programs of launch/ as a user does."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT

SECONDS = 800


def command(module, *flags):
    """Returns the command line of a program."""
    return [sys.executable, "-m", module, *map(str, flags)]


def run(module, *flags, environment=None):
    """Runs a program to its end, and returns its exit code and output."""
    return run_command(command(module, *flags), environment=environment)


def run_command(arguments, *, environment=None):
    """Runs a command line in the repository to its end."""
    return subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        env={**os.environ, **(environment or {})},
    )


def is_running(pid):
    """Returns whether a process exists and has not ended; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Runs the programs of launch/ as a user does."""

import os
import re
import signal
import subprocess
import sys
import time
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


def run_killing_worker_1(*flags, model_dir, at):
    """Runs launch.local to its end, but kills worker 1 once, when a line begins with `at`.

    Returns:
      Exit code, standard output and standard error.
    """
    return run_killing_workers(*flags, model_dir=model_dir, kills=[(at, 1, 0.0)])


def run_killing_workers(*flags, model_dir, kills):
    """Runs launch.local to its end, but kills workers.

    Args:
      *flags: Flags of the run.
      model_dir: Folder of the run.
      kills: Beginning of a line, rank of the worker that is killed when such a line is printed
        after the former kill, and seconds in between, of each kill.

    Returns:
      Exit code, standard output and standard error.
    """
    process = subprocess.Popen(
        command("launch.local", *flags, f"--model_dir={model_dir}"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = []
    left = list(kills)
    for line in process.stdout if left else ():
        before.append(line)
        at, rank, seconds = left[0]
        if line.startswith(at):
            time.sleep(seconds)
            os.kill(workers(model_dir)[rank], signal.SIGKILL)
            del left[0]
        if not left:
            break
    printed, errors = process.communicate(timeout=SECONDS)
    return process.returncode, "".join(before) + printed, errors


def workers(model_dir):
    """Returns the process of each worker of a run that is still alive, by its rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            rank = re.search(rb'"index": (\d+)', environment)
            if b"launch.worker" in arguments and str(model_dir).encode() in arguments and rank:
                found[int(rank[1])] = int(entry.name)
    return found


def is_running(pid):
    """Returns whether a process exists and has not ended; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Reads result logs of MLPerf Training, and has MLPerf's own checkers read them."""

import json
import subprocess
import sys

from tests.helpers import programs

TOKEN = ":::MLLOG "


def lines(path):
    """Returns the entries of a log, in the order of its lines."""
    text = path.read_text().splitlines()
    assert all(line.startswith(TOKEN) for line in text)
    return [json.loads(line.removeprefix(TOKEN)) for line in text]


def values(found):
    """Returns the last value of each key."""
    return {line["key"]: line["value"] for line in found}


def metadata(found, key):
    """Returns the metadata of each entry with a key, without the place in the program."""
    where = ("file", "lineno")
    return [
        {name: value for name, value in line["metadata"].items() if name not in where}
        for line in found
        if line["key"] == key
    ]


def check(path, folder):
    """Runs the compliance checker; returns its exit code and what it says."""
    usage = ("--usage", "training", "--ruleset", "4.0.0")
    return checker("compliance_checker", *usage, path, at=folder)


def checker(name, *arguments, at):
    """Runs a checker of mlperf-logging in a folder; returns its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", f"mlperf_logging.{name}", *map(str, arguments)],
        cwd=at,  # where it writes a log
        capture_output=True,
        text=True,
        timeout=programs.SECONDS,
    )
    return done.returncode, done.stdout + done.stderr

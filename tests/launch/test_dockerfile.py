"""Checks of the Dockerfile that do not build it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import programs

DOCKERFILE = programs.ROOT / "Dockerfile"


def _hadolint(text):
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("hadolint", path=f"{beside_python}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("hadolint is not installed (extra `test`, on Linux for x86_64)")
    return subprocess.run([found, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_hadolint_finds_nothing():
    done = _hadolint(DOCKERFILE.read_text())
    assert (done.returncode, done.stdout) == (0, "")
    assert "DL3013" in _hadolint("FROM python:3.12-slim\nRUN pip install tensorflow\n").stdout


def test_what_is_copied_exists_and_is_not_ignored():
    ignore = (programs.ROOT / ".dockerignore").read_text().split()
    assert "*" in ignore
    sources = re.findall(r"^COPY (.*) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    copied = [name for line in sources for name in line.split()]
    assert {"setup.cfg", "tf_lars", "models", "launch"} <= set(copied)
    for name in copied:
        assert (programs.ROOT / name).exists()
        assert f"!{name}" in ignore


def test_only_what_setup_cfg_asks_for_is_installed():
    text = DOCKERFILE.read_text()
    runs = re.findall(r"^RUN (.*)$", text, flags=re.MULTILINE)
    assert runs == ["launch/tpu_vm/install.sh python", 'pip install --editable ".[gpu]"']
    assert (programs.ROOT / "launch/tpu_vm/install.sh").stat().st_mode & 0o111
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, flags=re.MULTILINE) == ["base", "tpu", "gpu"]

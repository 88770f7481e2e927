"""The environment of `make setup-compile`, with JAX and without TensorFlow."""

import os

import pytest

from tests.helpers import programs
from tests.helpers.paths import ROOT

PYTHON = ROOT / ".venv-compile" / "bin" / "python"

needs_jax = pytest.mark.skipif(not os.path.exists(PYTHON), reason="needs `make setup-compile`")


def run(*arguments, environment=None):
    """Runs Python there with arguments, and returns its exit code and output."""
    return programs.run_command([str(PYTHON), *map(str, arguments)], environment=environment)

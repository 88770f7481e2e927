"""The exported step, run by JAX, is TensorFlow's."""

import json

import numpy as np
import pytest

from benchmarks import xla_step
from tests.helpers import jax_environment, programs
from tests.helpers.jax_environment import needs_jax
from tf_lars.xla import exported_step


def test_relative_differences():
    value, expected = np.array([3.0, 4.5], np.float32), np.array([3.0, 4.0], np.float32)
    assert xla_step.relative(value, expected) == pytest.approx(0.1)
    assert xla_step.relative(expected, expected) == 0
    assert xla_step.relative(value, 0 * expected) == pytest.approx(np.hypot(3, 4.5))


@needs_jax
@pytest.mark.exhaustive
def test_three_steps_of_xla_are_those_of_tensorflow(tmp_path):
    path = tmp_path / "step.zip"
    done = programs.run(
        "benchmarks.xla_step", f"--export={path}", "--model=small_resnet14", "--image_size=32"
    )
    assert done.returncode == 0, done.stderr
    step = exported_step.read(str(path))
    assert {f"noise_{number}" for number in (1, 2, 3)} <= set(step.values)
    done = jax_environment.run(
        "-m", "benchmarks.xla_step", f"--run={path}", environment={"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads(done.stdout.splitlines()[-1])
    assert first <= 1e-5
    assert max(second, third) <= 1e-4
    # Nearly all variables are compared: only those without a gradient hold rounding.
    compared = int(done.stdout.split(" variables, in ")[0].rsplit(" of ", 1)[1])
    assert compared > 0.9 * len(step.changed)
    assert first > 0  # the two compilers do not round alike

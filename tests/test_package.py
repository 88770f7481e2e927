"""The wheel: what is in it, and that it works by itself."""

import os
import subprocess
import sys
import zipfile

import pytest

import tf_lars
from tests.helpers.paths import ROOT

USE = """
import keras
import numpy as np
from tf_lars import LARS, Trainer, schedules

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
schedule = schedules.WarmupPolynomial(1.0, total_steps=10, warmup_steps=2)
model.compile(optimizer=LARS(schedule, weight_decay=1e-4), loss="mse")
model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
print("steps", int(model.optimizer.iterations.numpy()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources in an environment of its own."""
    directory = tmp_path_factory.mktemp("wheel")
    sources = directory / "sources"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(sources)],
        check=True,
        timeout=300,
        capture_output=True,
    )
    (built,) = directory.glob("*.whl")
    return built


def test_tf_lars_is_the_only_package_in_the_wheel(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"tf_lars"}


def test_every_module_and_table_is_in_the_wheel(wheel):
    files = [
        path for kind in ("*.py", "*.csv", "py.typed") for path in (ROOT / "tf_lars").rglob(kind)
    ]
    sources = {str(path.relative_to(ROOT)) for path in files}
    assert sources <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = str(environment / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=900)
    done = subprocess.run(
        [python, "-c", USE], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "steps 1" in done.stdout


def test_importing_the_package_does_not_import_tensorflow():
    source = "import sys, tf_lars; assert 'tensorflow' not in sys.modules; print(dir(tf_lars))"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    for name in ("LARS", "Trainer", "planner", "recipes", "schedules"):
        assert name in done.stdout


USER = """
from tf_lars import LARS, Trainer

LARS(0.1, momentm=0.9)
LARS.preset("optax", wieght_decay=1e-4)
Trainer(None, steps_per_lop=3)
LARS(0.1, momentum=0.9, clipnorm=1.0)
"""


def test_mypy_reports_misspelt_arguments_in_a_users_program(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in errors] == ["4", "5", "6"], done.stdout
    for name in ("momentm", "wieght_decay", "steps_per_lop"):
        assert f'Unexpected keyword argument "{name}"' in done.stdout


SAVED = """
import sys
import keras, numpy as np
import tf_lars

if sys.argv[1] == "save":
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer=tf_lars.LARS(0.1, momentum=0.8), loss="mse")
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    model.save(sys.argv[2])
else:
    model = keras.models.load_model(sys.argv[2])
    print(model.optimizer.rule.momentum, int(model.optimizer.iterations))
"""


def test_importing_the_package_lets_keras_load_a_saved_optimizer(tmp_path):
    path = str(tmp_path / "model.keras")
    for action in ("save", "load"):
        done = subprocess.run(
            [sys.executable, "-c", SAVED, action, path],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.8", "1"]


def test_the_package_tells_its_version(wheel):
    assert f"-{tf_lars.__version__}-" in wheel.name

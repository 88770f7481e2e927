"""The programs of examples/, alone and as two workers, with one or two epochs."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import programs
from tests.helpers.paths import ROOT
from tf_lars.cluster import supervisor

pytest.importorskip("sklearn", reason="the examples train on scikit-learn's digits")

EXAMPLES = {
    "fit_with_lars": "test accuracy ",
    "trainer_on_workers": "test accuracy ",
    "fine_tuning": "all layers: validation accuracy ",
    "two_inputs_two_outputs": "accuracy ",
    "custom_loop": "epoch 2: loss ",
}


def _start(name, folder, task=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    if task:
        environment["TF_CONFIG"] = json.dumps(task)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), "2"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _last_line(process):
    try:
        out, err = process.communicate(timeout=programs.SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    assert "AutoGraph could not" not in err, err[-3000:]
    return out.splitlines()[-1]


def test_each_is_short_and_listed():
    found = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")}
    assert found.keys() == EXAMPLES.keys()
    assert max(len(text.splitlines()) for text in found.values()) < 80
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}.py` |" in listed for name in found)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.slow
def test_it_runs_alone(name, tmp_path):
    assert _last_line(_start(name, tmp_path)).startswith(EXAMPLES[name])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if i else pytest.mark.slow)
        for i, name in enumerate(EXAMPLES)
    ],
)
def test_it_runs_on_two_workers_with_the_same_result_on_both(name, tmp_path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in supervisor.free_ports(2)]}
    workers = [
        _start(name, tmp_path, {"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    first, second = (_last_line(worker) for worker in workers)
    assert first.startswith(EXAMPLES[name])
    assert first == second

"""A run that is killed repeatedly ends with the weights of an undisturbed run."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import programs


@pytest.fixture
def flags(digits_dir):
    """Returns flags for accumulation, augmentation, batch normalisation and averaged weights."""
    return [
        "--flagfile=launch/recipes/digits.flags",
        f"--data_dir={digits_dir}",
        "--model=small_resnet8",
        "--augmentation=reference",
        "--mixup_alpha=0.2",
        "--micro_batch_size=64",
        "--ema_momentum=0.9",
        "--epochs=12",
        "--warmup_epochs=1",
        "--deterministic",
    ]


def _start(flags, model_dir):
    """Starts a run."""
    return subprocess.Popen(
        programs.command("launch.local", *flags, f"--model_dir={model_dir}"),
        cwd=programs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _results(model_dir):
    return json.loads((model_dir / "results.json").read_text())


def _resumptions(output):
    """Returns the lines of a run's output that name the checkpoint from which it resumes."""
    return {line for line in output.splitlines() if line.startswith("resuming from")}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_kills_at_random_instants_change_nothing(flags, tmp_path):
    start = time.monotonic()
    undisturbed = _start(flags, tmp_path / "undisturbed")
    assert undisturbed.communicate(timeout=programs.SECONDS)[0], "it prints"
    assert undisturbed.returncode == 0
    seconds = time.monotonic() - start

    instants = random.Random(0)
    model_dir, resumed_at = tmp_path / "killed", set()
    for _ in range(25):
        run = _start(flags, model_dir)
        try:
            # Mostly after the start-up, which takes about half of the time.
            run.wait(timeout=instants.uniform(0.2, 0.95) * seconds)
        except subprocess.TimeoutExpired:
            workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            for pid in (run.pid, *map(int, workers)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        output = run.communicate(timeout=60)[0]
        resumed_at |= _resumptions(output)
    last = _start(flags, model_dir)
    output = last.communicate(timeout=programs.SECONDS)[0]
    assert last.returncode == 0, output
    resumed_at |= _resumptions(output)
    assert resumed_at, "no run got far enough to be resumed"
    for name in ("weights_sha256", "replica_weights_sha256", "top1", "loss", "steps"):
        assert _results(model_dir)[name] == _results(tmp_path / "undisturbed")[name], name


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_batch_ramp_of_two_workers_killed_five_times_ends_with_the_undisturbed_bits(
    digits_dir, tmp_path
):
    flags = [
        "--flagfile=launch/recipes/digits.flags",
        f"--data_dir={digits_dir}",
        "--model=small_resnet8",
        "--augmentation=reference",
        "--batch_size_schedule=0:256,4:512,8:1024",
        "--batch_schedule_rate=square_root",
        "--epochs=12",
        "--warmup_epochs=2",
        "--max_restarts=5",
    ]
    code, printed, errors = programs.run_killing_workers(
        *flags, model_dir=tmp_path / "undisturbed", kills=[]
    )
    assert code == 0, errors

    places = random.Random(0)
    kills = [
        (f"epoch {epoch}/12", places.randrange(2), places.uniform(0.0, 1.0))
        for epoch in sorted(places.sample(range(1, 12), 5))
    ]
    code, printed, errors = programs.run_killing_workers(
        *flags, model_dir=tmp_path / "killed", kills=kills
    )
    assert code == 0, errors
    assert errors.count("was killed by SIGKILL") == 5
    assert len(re.findall(r"^resuming from", printed, re.MULTILINE)) >= 4
    first, second = (_results(tmp_path / name) for name in ("undisturbed", "killed"))
    for name in ("weights_sha256", "replica_weights_sha256", "top1", "loss", "steps"):
        assert first[name] == second[name], name
    assert (first["steps"], first["epochs"]) == (40, 12)
    lines = map(json.loads, (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines())
    epochs = {line["step"]: line["epoch"] for line in lines if "epoch" in line}
    assert [epochs[step] * 1437 for step in (23, 34, 40)] == pytest.approx([5888, 11520, 17664])

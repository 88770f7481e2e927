"""Training on a real Slurm: a killed task, a requeue, a wrong number of tasks."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers import programs
from tests.helpers.cluster_job import flags_for_digits

EPOCHS = 8


def _launcher(model_dir, task):
    """Returns the process id of the launcher of a task that trains in `model_dir`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            wanted = b"launch.gpu_cluster" in command and str(model_dir).encode() in command
            if wanted and f"SLURM_PROCID={task}".encode() in environment:
                return int(entry.name)
    raise AssertionError(f"task {task} has no launcher in {model_dir}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_survives_a_killed_task_and_a_requeue(slurm, digits_dir, tmp_path):
    log, model_dir = tmp_path / "log", tmp_path / "run"

    def has_printed(pattern, times=1):
        return lambda _: len(re.findall(pattern, log.read_text() if log.exists() else "")) >= times

    job = slurm.sbatch(
        programs.ROOT / "launch" / "slurm" / "train.sbatch",
        *flags_for_digits(
            digits_dir, 2, f"--epochs={EPOCHS}", f"--model_dir={model_dir}", "--resume=never"
        ),
        options=["-N2", f"--output={log}"],
        cwd=programs.ROOT,
        environment={"PYTHON": sys.executable, "BACKOFF_SECONDS": "0"},
    )
    slurm.wait_for(job, has_printed("epoch 3/"), programs.SECONDS)
    os.kill(_launcher(model_dir, 1), signal.SIGKILL)
    slurm.wait_for(job, has_printed("resuming from"), programs.SECONDS)
    slurm.wait_for(job, has_printed("epoch 5/"), programs.SECONDS)
    slurm.scontrol("requeue", job)
    slurm.wait_for(job, has_printed("resuming from", 2), programs.SECONDS)
    assert slurm.wait(job, programs.SECONDS) == "COMPLETED", log.read_text()
    results = json.loads((model_dir / "results.json").read_text())
    assert (results["num_workers"], results["epochs"]) == (2, EPOCHS)
    assert len(set(results["replica_weights_sha256"])) == 1
    assert "(2 worker processes, Slurm)" in log.read_text()


@pytest.mark.slow
def test_a_step_on_fewer_nodes_than_the_job_is_bad_input(slurm, digits_dir, tmp_path):
    flags = flags_for_digits(digits_dir, 2, f"--model_dir={tmp_path / 'run'}")
    command = " ".join(programs.command("launch.gpu_cluster", *flags))
    script = tmp_path / "job"
    script.write_text(
        f"#!/bin/sh\ncd {programs.ROOT}\nexec srun --nodes=1 --ntasks=1 {command} 2>&1\n"
    )
    job = slurm.sbatch(script, options=["-N2", f"--output={tmp_path / 'log'}"], cwd=tmp_path)
    assert slurm.wait(job, programs.SECONDS) == "FAILED"
    assert "a step on 1 of 2 nodes" in (tmp_path / "log").read_text()
    assert slurm.job(job)["ExitCode"].startswith("2:")

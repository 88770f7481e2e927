"""The private Slurm that the launchers' tests use."""

import os
import signal
import subprocess

import pytest

from tests.helpers import programs, slurm_cluster


@pytest.fixture
def submit(slurm, tmp_path):
    """Returns a function that submits the lines of a script on four nodes."""

    def submit(*lines):
        script = tmp_path / "job.sh"
        script.write_text("\n".join(["#!/bin/bash", *lines, ""]))
        return slurm.sbatch(script, options=["-N4", "--open-mode=append"], cwd=tmp_path)

    return submit


def _wait_for_lines(slurm, job, count):
    """Waits until a job has written at least `count` lines, and returns them."""
    slurm.wait_for(job, lambda now: slurm.output(job).count("\n") >= count)
    return slurm.output(job).splitlines()


@pytest.mark.slow
def test_a_step_runs_on_four_nodes(slurm, submit):
    job = submit("srun bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME $SLURM_STEP_NODELIST'")
    assert slurm.wait(job) == "COMPLETED"
    assert sorted(slurm.output(job).splitlines()) == [f"{i} n{i} n[0-3]" for i in range(4)]
    assert slurm.job(job)["ExitCode"] == "0:0"
    assert str(job) not in slurm.squeue("--noheader", "--format=%i")
    assert slurm.scontrol("show", "hostnames", "n[0-3]").split() == list(slurm.nodes)


@pytest.mark.slow
def test_a_killed_task_ends_the_step(slurm, submit):
    job = submit(
        "srun --kill-on-bad-exit=1 bash -c 'echo $SLURM_PROCID $$; exec sleep 1000'",
        "echo ended $?",
    )
    pids = dict(line.split() for line in _wait_for_lines(slurm, job, 4))
    os.kill(int(pids["2"]), signal.SIGKILL)
    slurm.wait(job)
    assert "task 2: Killed" in slurm.output(job)
    assert "ended 143" in slurm.output(job).splitlines()  # the others' SIGTERM: the highest code
    assert not any(programs.is_running(pid) for pid in pids.values())


@pytest.mark.slow
def test_a_requeued_job_gets_sigterm_and_starts_again(slurm, submit):
    job = submit(
        "trap : TERM",  # otherwise the script ends immediately, and srun with it
        'echo "start ${SLURM_RESTART_COUNT:-0}"',
        '[[ -z "$SLURM_RESTART_COUNT" ]] || exit 0',
        "srun -n1 bash -c 'trap \"echo told; exit 0\" TERM; echo ready; sleep 1000 & wait'",
    )
    _wait_for_lines(slurm, job, 2)
    slurm.scontrol("requeue", str(job))
    assert slurm.wait(job) == "COMPLETED"
    assert slurm.job(job)["Restarts"] == "1"
    ours = ["start 0", "ready", "told", "start 1"]
    assert [line for line in slurm.output(job).splitlines() if line in ours] == ours


@pytest.mark.slow
def test_a_cancelled_job_ends(slurm, submit):
    job = submit("echo ready; sleep 1000")
    _wait_for_lines(slurm, job, 1)
    slurm.cancel(job)
    assert slurm.wait(job) == "CANCELLED"


@pytest.mark.slow
def test_a_failed_command_says_why(slurm):
    with pytest.raises(RuntimeError, match="Invalid job id"):
        slurm.state(4_000_000)


@pytest.mark.slow
def test_servers_listen_on_the_loopback_interface_only(slurm):
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout
    lines = [line for line in listening.splitlines() if '"slurm' in line]
    assert len(lines) >= 1 + len(slurm.nodes)
    assert all(line.split()[3].startswith("127.0.0.1:") for line in lines)


@pytest.mark.slow
def test_nothing_is_left_of_a_slurm_whose_test_failed(tmp_path):
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\nsetsid sleep 1000 & echo $!; trap '' TERM; wait; sleep 1000\n")
    folders, pids = [], []

    def fail():
        with slurm_cluster.started(nodes=1) as slurm:
            folders.append(slurm.folder)
            pids.append(_wait_for_lines(slurm, slurm.sbatch(script, cwd=tmp_path), 1)[0])
            assert programs.is_running(pids[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not folders[0].exists()
    assert not programs.is_running(pids[0])

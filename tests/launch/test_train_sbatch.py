"""launch/slurm/train.sbatch on a real Slurm, with a fake launcher with prescribed exit codes."""

import os
import re
import signal
import subprocess

import pytest

from tests.helpers import programs

SCRIPT = "launch/slurm/train.sbatch"
FLAGS = ["--flagfile=a b.flags", "--model_dir=runs/$HOME", "--epochs=3"]
# Used as `PYTHON`: records its start and its arguments, and exits with the code in CODES for this
# start and task: "75,0 0" is 75 for task 0 and 0 for task 1, then 0 for all. The code `save` waits
# for SIGTERM and exits with 42; `hang` ignores SIGTERM. Slurm considers a task ended when no
# process holds its output any more.
LAUNCHER = r"""#!/bin/bash
start=$(ls "$RECORD" | grep -c "^task-$SLURM_PROCID-")
codes=($CODES)
IFS=, read -ra tasks <<< "${codes[start]}"
code=${tasks[SLURM_PROCID]-${tasks[0]}}
case $code in
save) trap 'exit 42' TERM ;;
hang) trap '' TERM ;;
esac
file=$RECORD/task-$SLURM_PROCID-$start
printf '%s\n' $$ "$@" > "$file.part"
mv "$file.part" "$file"
# Otherwise srun could end a task before it has written anything, because another one failed.
while (($(ls "$RECORD" | grep -c "^task-[0-9]*-$start\$") < SLURM_NTASKS)); do sleep 0.05; done
echo "launcher $SLURM_PROCID of $SLURM_NTASKS, start $start, GPUs $CUDA_VISIBLE_DEVICES"
case $code in
save | hang) sleep 1000 > /dev/null 2>&1 & while true; do wait; done ;;
*) exit "$code" ;;
esac
"""


class Training:
    """A job of train.sbatch with the fake launcher."""

    def __init__(self, slurm, folder):
        self.slurm = slurm
        self.record = folder / "record"
        self.record.mkdir()
        self.launcher = folder / "python"
        self.launcher.write_text(LAUNCHER)
        self.launcher.chmod(0o755)
        self.folder = folder
        self.id = None

    def submit(self, codes, *options, cwd=programs.ROOT, flags=FLAGS, **environment):
        environment = {
            "PYTHON": str(self.launcher),
            "RECORD": str(self.record),
            "CODES": codes,
            "BACKOFF_SECONDS": "0",
            **environment,
        }
        options = ["-N2", f"--output={self.folder}/log", *options]
        script = programs.ROOT / SCRIPT
        self.id = self.slurm.sbatch(
            script, *flags, options=options, cwd=cwd, environment=environment
        )

    def end(self):
        """Waits until the job ends; returns its state and exit code."""
        state = self.slurm.wait(self.id)
        return state, int(self.slurm.job(self.id)["ExitCode"].split(":")[0])

    def wait_for_starts(self, count):
        self.slurm.wait_for(self.id, lambda now: len(self.starts()) >= count)

    def starts(self):
        return sorted(re.fullmatch(r"task-(\d-\d)", name)[1] for name in self._records())

    def pid(self, start):
        return int((self.record / f"task-{start}").read_text().splitlines()[0])

    def arguments(self, start):
        return (self.record / f"task-{start}").read_text().splitlines()[1:]

    def output(self):
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def restarts(self):
        """Returns how many times Slurm itself restarted the job."""
        return int(self.slurm.job(self.id)["Restarts"])

    def _records(self):
        return [name for name in os.listdir(self.record) if not name.endswith(".part")]


@pytest.fixture
def training(slurm, tmp_path):
    training = Training(slurm, tmp_path)
    yield training
    if training.id is not None:
        slurm.run("scancel", "--signal=KILL", "--full", training.id, check=False)


@pytest.mark.slow
def test_one_launcher_per_node_gets_the_flags_as_they_are(training):
    training.submit("0", "-N3")
    assert training.end() == ("COMPLETED", 0)
    assert training.starts() == ["0-0", "1-0", "2-0"]
    for start in training.starts():
        assert training.arguments(start) == ["-m", "launch.gpu_cluster", *FLAGS]
    assert "launcher 2 of 3, start 0" in training.output()


@pytest.mark.slow
@pytest.mark.parametrize(("per_node", "gpus"), [(1, ["0,1"] * 2), (2, ["0", "1"] * 2)])
def test_a_launcher_has_all_gpus_of_its_node_or_one_of_its_own(training, per_node, gpus):
    training.submit("0", f"--ntasks-per-node={per_node}", "--gpus-per-node=2")
    assert training.end() == ("COMPLETED", 0), training.output()
    lines = re.findall(r"launcher (\d) of (\d), start 0, GPUs (.*)", training.output())
    count = str(len(gpus))
    assert sorted(lines) == [(str(rank), count, gpu) for rank, gpu in enumerate(gpus)]


@pytest.mark.slow
def test_a_failed_peer_is_followed_by_one_restart_of_all(training):
    training.submit("75 0")
    assert training.end() == ("COMPLETED", 0)
    assert training.starts() == ["0-0", "0-1", "1-0", "1-1"]
    assert training.restarts() == 0, "in the same allocation"
    failed = r"failed \(n\d: task \d: Exited with exit code 75\); restart in 0 s\."
    assert re.search(failed, training.output())


@pytest.mark.slow
def test_a_killed_launcher_takes_the_others_along_and_all_start_again(training):
    training.submit("hang,hang 0")
    training.wait_for_starts(2)
    os.kill(training.pid("0-0"), signal.SIGKILL)
    assert training.end() == ("COMPLETED", 0)
    assert training.starts() == ["0-0", "0-1", "1-0", "1-1"]
    assert "failed (n0: task 0: Killed); restart in 0 s." in training.output()


@pytest.mark.slow
def test_a_failure_is_one_although_the_others_save_when_srun_ends_them(training):
    training.submit("save,75 0")
    assert training.end() == ("COMPLETED", 0)
    assert "Exited with exit code 42" in training.output()
    assert training.restarts() == 0
    assert "failed (n1: task 1: Exited with exit code 75); restart" in training.output()


@pytest.mark.slow
def test_it_gives_up_after_the_last_restart(training):
    training.submit("75 75 1 0", MAX_RESTARTS="2")
    assert training.end() == ("FAILED", 1)
    assert training.starts() == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert re.search(r"exit code 1\) after 2 restarts; giving up\.\n$", training.output())


@pytest.mark.slow
def test_bad_flags_are_never_tried_again_whatever_the_others_end_with(training):
    training.submit("hang,2 0")
    assert training.end() == ("FAILED", 2)
    assert training.starts() == ["0-0", "1-0"]
    assert training.output().endswith("bad flags or input (exit code 2): a restart cannot help.\n")


@pytest.mark.slow
def test_a_run_that_has_saved_queues_again_and_goes_on(training):
    training.submit("42,save 0", MAX_RESTARTS="0")
    assert training.end() == ("COMPLETED", 0)
    assert training.starts() == ["0-0", "0-1", "1-0", "1-1"]
    assert training.restarts() == 1
    assert "stopped and saved (exit code 42); the job is requeued." in training.output()


@pytest.mark.slow
def test_a_job_that_must_not_be_requeued_says_how_to_go_on(training):
    training.submit("42", "--no-requeue")
    assert training.end() == ("FAILED", 42)
    assert training.output().endswith("submit it again to continue.\n")


@pytest.mark.slow
def test_scontrol_requeue_lets_all_save_and_starts_them_again(training):
    training.submit("save 0")
    training.wait_for_starts(2)
    training.slurm.scontrol("requeue", str(training.id))
    assert training.end() == ("COMPLETED", 0)
    assert training.restarts() == 1
    assert training.starts() == ["0-0", "0-1", "1-0", "1-1"]
    assert "ended by Slurm (exit code 42)." in training.output()


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_cancelled(training):
    training.submit("save 0")
    training.wait_for_starts(2)
    training.slurm.cancel(training.id)
    training.slurm.wait_for(training.id, lambda now: "ended by Slurm" in training.output())
    assert training.end()[0] == "CANCELLED"
    assert "ended by Slurm (exit code 42)." in training.output()
    assert training.starts() == ["0-0", "1-0"]


@pytest.mark.slow
def test_a_job_that_is_cancelled_between_two_starts_does_not_start_again(training):
    training.submit("75 0", BACKOFF_SECONDS="300")
    training.slurm.wait_for(training.id, lambda now: "restart in 300 s" in training.output())
    training.slurm.cancel(training.id)
    assert training.end()[0] == "CANCELLED"
    assert training.starts() == ["0-0", "1-0"]


@pytest.mark.slow
def test_tasks_save_before_the_time_limit_and_go_on(training):
    # Slurm checks time limits every 30 seconds, and the shortest limit is a minute.
    training.submit("save 0", "--time=1", "--signal=TERM@30")
    state = training.slurm.wait(training.id, 180)
    assert state == "COMPLETED", training.output()
    assert training.restarts() == 1
    assert "stopped and saved (exit code 42); the job is requeued." in training.output()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        (["-n4", "--ntasks-per-node=4"], {}, "2 x 4. Received: 4 tasks. Give sbatch -N and"),
        (
            ["--ntasks-per-node=4", "--gpus-per-node=2"],
            {},
            "Received: 4 tasks and 2 GPUs per node. Set --ntasks-per-node to 1 or to 2.",
        ),
        ([], {"PYTHON": "/no/python"}, "no interpreter at /no/python; run `make setup`, or set"),
        ([], {"MAX_RESTARTS": "many"}, "MAX_RESTARTS must be a whole number. Received: many."),
        ([], {"BACKOFF_SECONDS": ""}, None),
    ],
)
def test_settings_are_checked_before_anything_starts(training, options, environment, sentence):
    training.submit("0", *options, **environment)
    if sentence is None:
        assert training.end() == ("COMPLETED", 0), "an empty setting is the default"
        return
    assert training.end() == ("FAILED", 2)
    assert sentence in training.output()
    assert training.starts() == []


@pytest.mark.slow
def test_it_must_be_submitted_from_the_checkout(training, tmp_path):
    training.submit("0", cwd=tmp_path)
    assert training.end() == ("FAILED", 2)
    assert f"submit from the folder of the checkout. Received: {tmp_path}." in training.output()


def test_without_sbatch_it_says_how_to_start_it(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(
        ["bash", SCRIPT], cwd=programs.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "this script must be submitted: sbatch" in done.stderr

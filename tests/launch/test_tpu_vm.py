"""The scripts of launch/tpu_vm, with a fake `gcloud` that records its calls."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers import programs

pytestmark = pytest.mark.slow  # dozens of shells

FOLDER = programs.ROOT / "launch" / "tpu_vm"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PROGRAMS = ("create.sh", "setup.sh", "run.sh", "delete.sh")
SLICE = ("--name=lars", "--zone=us-west4-a")

GCLOUD = f"""#!{sys.executable}
import json, os, shutil, sys

folder = os.environ["FAKE_GCLOUD"]
arguments = sys.argv[1:]
with open(os.path.join(folder, "calls"), "a") as file:
    file.write(json.dumps(arguments) + "\\n")
answers = json.load(open(os.path.join(folder, "answers")))
command = " ".join(arguments[2:4])
if "ssh" in arguments:
    command += " " + next(a for a in arguments if a.startswith("--worker="))
if "scp" in arguments:
    shutil.copy(arguments[4], os.path.join(folder, "sent.tar.gz"))
answer = answers.get(command, [""])
if len(answer) > 1:
    json.dump({{**answers, command: answer[1:]}}, open(os.path.join(folder, "answers"), "w"))
if isinstance(answer[0], int):
    sys.exit(answer[0])
if answer[0]:
    print(answer[0])
"""


class Gcloud:
    """A fake gcloud that gives prescribed answers (text or an exit code) and records its calls."""

    def __init__(self, folder):
        self.folder = folder
        program = folder / "bin" / "gcloud"
        program.parent.mkdir()
        program.write_text(GCLOUD)
        program.chmod(0o755)
        self.answers = {}

    def run(self, script, *flags):
        (self.folder / "answers").write_text(json.dumps(self.answers))
        return subprocess.run(
            [FOLDER / script, *flags],
            capture_output=True,
            text=True,
            timeout=programs.SECONDS,
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "FAKE_GCLOUD": str(self.folder),
            },
        )

    def calls(self, *words):
        """Returns the calls that contain these words, without `compute tpus`."""
        path = self.folder / "calls"
        calls = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        assert all(call[:2] == ["compute", "tpus"] for call in calls)
        return [call[2:] for call in calls if set(words) <= set(call)]


DESCRIBE, ENDPOINTS = "queued-resources describe", "tpu-vm describe"
FIRST, ALL = "tpu-vm ssh --worker=0", "tpu-vm ssh --worker=all"
STATE = ["--format=value(state.state)", "--zone=us-west4-a"]


@pytest.fixture
def gcloud(tmp_path):
    return Gcloud(tmp_path)


def _shellcheck(*arguments):
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("shellcheck", path=f"{beside_python}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("shellcheck is not installed (extra `test`)")
    return subprocess.run(
        [found, *arguments], cwd=programs.ROOT, capture_output=True, text=True, timeout=60
    )


def test_shellcheck_finds_nothing(tmp_path):
    assert len(SCRIPTS) == 6
    done = _shellcheck(*SCRIPTS)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "wrong.sh"
    wrong.write_text("#!/bin/bash\nrm $1/*\n")
    assert "SC2086" in _shellcheck(wrong).stdout


@pytest.mark.parametrize("script", [*PROGRAMS, "install.sh"])
def test_help_is_printed_and_nothing_is_done(gcloud, script):
    done = gcloud.run(script, "--help")
    assert done.returncode == 0
    assert f"{script} " in done.stdout + done.stderr
    assert gcloud.calls() == []


@pytest.mark.parametrize(
    ("script", "flags", "sentence"),
    [
        ("create.sh", [], "--name must be given"),
        ("setup.sh", ["--name=lars"], "--zone must be given"),
        ("run.sh", ["--name=", "--zone=z"], "--name must have a value"),
        ("delete.sh", ["--colour=red"], "There is no flag --colour"),
        ("run.sh", ["lars"], "Only flags of the form --name=value are accepted. Received: 'lars'"),
        ("run.sh", [*SLICE, "--max_restarts=-1"], "--max_restarts must be a whole number"),
    ],
)
def test_wrong_flags_end_in_one_sentence_and_exit_code_2(gcloud, script, flags, sentence):
    done = gcloud.run(script, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert gcloud.calls() == []


def test_create_asks_once_and_waits_until_the_slice_is_there(gcloud):
    gcloud.answers[DESCRIBE] = [1, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    done = gcloud.run(
        "create.sh", *SLICE, "--accelerator_type=v5litepod-8", "--project=p", "--spot",
        "--data_disk=source=projects/p/zones/z/disks/my disk,mode=read-only", "--poll_seconds=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert done.stdout.splitlines() == [f"lars is {state}" for state in states]
    assert gcloud.calls("create") == [
        [
            "queued-resources", "create", "lars", "--node-id=lars",
            "--accelerator-type=v5litepod-8", "--runtime-version=v2-alpha-tpuv5-lite", "--spot",
            "--data-disk=source=projects/p/zones/z/disks/my disk,mode=read-only",
            "--zone=us-west4-a", "--project=p",
        ]
    ]  # fmt: skip


def test_create_waits_for_what_was_asked_for_before(gcloud):
    gcloud.answers[DESCRIBE] = ["ACTIVE"]
    done = gcloud.run("create.sh", *SLICE, "--accelerator_type=v4-8")
    assert done.returncode == 0
    assert gcloud.calls("create") == []
    assert gcloud.calls() == [["queued-resources", "describe", "lars", *STATE]] * 2


def test_create_says_what_became_of_a_slice_that_does_not_come(gcloud):
    gcloud.answers[DESCRIBE] = ["FAILED"]
    done = gcloud.run("create.sh", *SLICE, "--accelerator_type=v4-8")
    assert done.returncode == 1
    assert "lars is FAILED" in done.stderr


@pytest.mark.parametrize(
    ("accelerator", "image"),
    [
        ("v3-32", "tpu-ubuntu2204-base"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_each_accelerator_has_its_image(gcloud, accelerator, image):
    gcloud.answers[DESCRIBE] = [1, "ACTIVE"]
    gcloud.run("create.sh", *SLICE, f"--accelerator_type={accelerator}")
    (call,) = gcloud.calls("create")
    assert f"--runtime-version={image}" in call


def test_an_unknown_accelerator_needs_an_image(gcloud):
    done = gcloud.run("create.sh", *SLICE, "--accelerator_type=v99-8")
    assert done.returncode == 2
    assert "--runtime_version must be given" in done.stderr


def test_setup_sends_what_is_committed_and_installs_it_on_all_hosts(gcloud):
    if not (programs.ROOT / ".git").exists():
        pytest.skip("setup.sh sends git's files, and this is not a checkout")
    done = gcloud.run("setup.sh", *SLICE, "--python=python3.11; ls")
    assert done.returncode == 0, done.stderr
    (sent,) = gcloud.calls("scp")
    assert sent[3:] == ["lars:tf-lars.tar.gz", "--worker=all", "--zone=us-west4-a"]
    with tarfile.open(gcloud.folder / "sent.tar.gz") as archive:
        assert {"setup.cfg", "launch/cli/app.py", "tf_lars/__init__.py"} <= set(archive.getnames())
    (call,) = gcloud.calls("ssh")
    assert call[:4] == ["tpu-vm", "ssh", "lars", "--worker=all"]
    assert r"python3.11\;\ ls -m venv .venv" in call[4]
    assert "bash launch/tpu_vm/install.sh .venv/bin/python" in call[4]


def _trainings(gcloud):
    """Returns the commands run on the first host, each split into words as by a shell."""
    words = [shlex.split(call[4].removeprefix("--command=")) for call in gcloud.calls("--worker=0")]
    names = {one.pop(3).partition("=") for one in words}
    assert [name for name, _, value in names if value] == ["TF_LARS_JOB"], "one for all starts"
    return words


def test_a_slice_of_one_host_trains_on_its_own_chips(gcloud):
    gcloud.answers[ENDPOINTS] = ["10.0.0.1"]
    done = gcloud.run("run.sh", *SLICE, "--", "--data_dir=/my data", "--model=a.py:b'c")
    assert done.returncode == 0, done.stderr
    assert gcloud.calls("--worker=all") == []
    assert _trainings(gcloud) == [
        ["cd", "tf-lars", "&&", "flock", "--nonblock", "--conflict-exit-code", "75", "train.lock",
         ".venv/bin/python", "-m", "launch.tpu", "--tpu=local", "--data_dir=/my data",
         "--model=a.py:b'c"]
    ]  # fmt: skip


def test_on_several_hosts_servers_are_started_anew_each_time(gcloud):
    gcloud.answers[ENDPOINTS] = ["10.0.0.1;10.0.0.2"]
    gcloud.answers[FIRST] = [75, ""]
    done = gcloud.run("run.sh", *SLICE, "--retry_seconds=0", "--", "--epochs=1")
    assert done.returncode == 0, done.stderr
    kinds = [call[3] for call in gcloud.calls("ssh")]
    assert kinds == ["--worker=all", "--worker=0"] * 2
    assert "start_grpc_tpu_worker" in gcloud.calls("--worker=all")[0][4]
    first, second = _trainings(gcloud)
    assert first == second
    assert "--tpu=grpc://10.0.0.1:8470,grpc://10.0.0.2:8470" in first
    assert first[3] == "TPU_LOAD_LIBRARY=0"


def test_a_server_that_does_not_start_is_no_bad_input(gcloud):
    gcloud.answers = {ENDPOINTS: ["10.0.0.1;10.0.0.2"], ALL: [2, ""]}
    done = gcloud.run("run.sh", *SLICE, "--retry_seconds=0", "--", "--epochs=1")
    assert done.returncode == 0, done.stderr
    assert len(_trainings(gcloud)) == 1


@pytest.mark.parametrize(
    ("codes", "ends_with", "runs"),
    [
        ([0], 0, 1),
        ([2, 0], 2, 1),
        ([42, 42, 42, 0], 0, 4),
        ([255, 1, 0], 0, 3),
        ([75, 42, 1, 139, 0], 139, 4),
        ([75, 2], 2, 2),
    ],
)
def test_exit_codes_decide_whether_the_same_command_runs_again(gcloud, codes, ends_with, runs):
    gcloud.answers = {ENDPOINTS: ["10.0.0.1"], DESCRIBE: ["ACTIVE"], FIRST: codes}
    done = gcloud.run("run.sh", *SLICE, "--max_restarts=2", "--retry_seconds=0", "--", "--epochs=1")
    assert done.returncode == ends_with
    trainings = _trainings(gcloud)
    assert trainings == trainings[:1] * runs


def test_a_slice_that_was_taken_away_ends_the_run(gcloud):
    gcloud.answers = {ENDPOINTS: ["10.0.0.1"], DESCRIBE: ["SUSPENDED"], FIRST: [255]}
    done = gcloud.run("run.sh", *SLICE, "--retry_seconds=0", "--", "--epochs=1")
    assert done.returncode == 42
    assert "lars is SUSPENDED. Run delete.sh, create.sh and setup.sh" in done.stderr


def test_run_needs_a_slice_and_training_flags(gcloud):
    assert "Training flags must follow --" in gcloud.run("run.sh", *SLICE).stderr
    gcloud.answers[ENDPOINTS] = [1]
    done = gcloud.run("run.sh", *SLICE, "--", "--epochs=1")
    assert done.returncode == 2
    assert "There is no TPU 'lars' in us-west4-a" in done.stderr
    assert gcloud.calls("ssh") == []


def test_delete_gives_the_slice_back(gcloud):
    assert gcloud.run("delete.sh", *SLICE, "--quiet").returncode == 0
    assert gcloud.calls() == [
        ["queued-resources", "delete", "lars", "--force", "--quiet", "--zone=us-west4-a"]
    ]

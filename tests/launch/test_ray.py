"""`python -m launch.ray` on a Ray of this machine alone."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from launch.on_ray.ray_board import Board
from launch.on_ray.ray_settings import RaySettings
from launch.run.settings import TrainingSettings
from tests.helpers import programs
from tf_lars.cluster.supervisor import Outcome
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, EXIT_PREEMPTED, InputError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray comes with the extra `ray`"
)

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def short_folder():
    """Folder for temporary files with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield folder


def _processes_with(text):
    """Returns the command lines of the processes that have a text in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes())
    return found


@needs_ray
@pytest.mark.slow
def test_a_run_with_a_killed_worker_ends_with_the_bits_of_launch_local(
    finished, short_run, tmp_path, short_folder
):
    process = subprocess.Popen(
        programs.command(
            "launch.ray",
            *short_run,
            f"--cpus_per_worker={CORES / 2}",
            f"--model_dir={tmp_path}/run",
            "--max_restarts=1",
        ),
        cwd=programs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "TMPDIR": short_folder},
    )
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("epoch 2/6"):
            os.kill(programs.workers(f"{tmp_path}/run")[1], signal.SIGKILL)
            break
    rest, errors = process.communicate(timeout=programs.SECONDS)
    printed += rest
    assert process.returncode == 0, errors
    assert "worker 1 was killed by SIGKILL" in errors
    assert "Ray restarts the workers: restart 1 of at most 1" in errors
    assert "2 worker processes, Ray" in printed
    assert "\nresuming from" in printed
    assert "epoch 6/6" in printed
    mine, of_local = (
        json.loads((Path(folder) / "results.json").read_text())
        for folder in (tmp_path / "run", finished[0])
    )
    for name in ("weights_sha256", "replica_weights_sha256", "top1", "loss", "steps"):
        assert mine[name] == of_local[name], name
    for name in ("flags.txt", "report.html", "logs/rank-0.log", "logs/rank-1.log"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert not (tmp_path / "run" / ".ray").exists()
    assert list(Path(short_folder).glob("ray-*")) == []
    assert _processes_with(short_folder) == []


@needs_ray
@pytest.mark.exhaustive
def test_bad_input_of_a_worker_ends_the_job_with_its_sentence(finished, short_run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    # Ray has the CPUs for one worker only, so that one trains.
    done = programs.run(
        "launch.ray",
        *short_run,
        "--min_workers=1",
        f"--cpus_per_worker={CORES}",
        "--learning_rate=5",
        f"--model_dir={tmp_path}/run",
    )
    assert done.returncode == 2, done.stderr
    assert "error: A run can resume only from a checkpoint with the same settings." in done.stderr
    assert "restart" not in done.stderr
    assert "1 worker" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()


@needs_ray
def test_resources_that_the_cluster_lacks_are_named(short_run, tmp_path):
    done = programs.run(
        "launch.ray", *short_run, "--resources_per_worker=tape=1", f"--model_dir={tmp_path}/run"
    )
    assert done.returncode == 2, done.stderr
    assert "the resources of 2 workers with 1 CPU, 1 tape each" in done.stderr
    assert f"1 node with {CORES} CPU, 0 tape, enough for 0" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_dry_run_starts_nothing(short_run, tmp_path):
    done = programs.run(
        "launch.ray",
        *short_run,
        "--num_workers=4",
        "--min_workers=1",
        f"--model_dir={tmp_path}/run",
        f"--dry_run_output={tmp_path}/schedule.png",
        "--dry_run",
    )
    assert done.returncode == 0, done.stderr
    assert "1, 2, 4 workers" in done.stdout
    assert not (tmp_path / "run").exists()


def test_only_numbers_of_workers_that_divide_the_batch_are_used():
    settings = TrainingSettings(global_batch_size=96)
    assert RaySettings(num_workers=7, min_workers=2).sizes(settings) == [2, 3, 4, 6]
    two = RaySettings(num_workers=7, min_workers=2, gpus_per_worker=2)
    assert two.sizes(settings) == [2, 3, 4, 6]
    with pytest.raises(InputError, match="96"):
        RaySettings(num_workers=5).sizes(settings)


def test_nodes_are_counted_as_ray_places_workers():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8, "GPU": 2}},
        {"Alive": True, "Resources": {"CPU": 8, "GPU": 1}},
        {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}},
    ]
    for strategy, enough in (("PACK", 3), ("STRICT_PACK", 2), ("STRICT_SPREAD", 2)):
        asked = RaySettings(num_workers=9, gpus_per_worker=1, placement_strategy=strategy)
        asked.check_resources(nodes, enough)
        with pytest.raises(InputError, match=f"enough for {enough}"):
            asked.check_resources(nodes, enough + 1)


def _outcome(exit_code, rank, trained=False):
    return Outcome(exit_code, rank, f"rank-{rank}.log", f"error: of {rank}", trained)


def test_the_board_forgets_failures_that_a_restart_has_repaired_and_names_the_cause():
    board = Board()
    first, second = ("a:1", "b:1"), ("a:2", "b:2")
    assert [board.begin(first), board.begin(first)] == [0, 0]
    assert not board.end(first, _outcome(EXIT_PEER_FAILED, 0))
    assert board.end(first, _outcome(-9, 1, trained=True))
    assert board.news().cause == _outcome(-9, 1, trained=True)
    assert board.begin(second) == 1
    assert board.end(second, _outcome(0, 0))
    news = board.news()
    assert (news.cause, news.has_trained, news.starts) == (None, True, 2)
    assert not board.beat()
    board.end(first, _outcome(EXIT_PEER_FAILED, 0))  # a late one
    assert board.news().cause is None


def test_bad_input_of_one_worker_stops_all():
    board = Board()
    board.begin(("a:1", "b:1"))
    board.show(b"epoch 1")
    board.end(("a:1", "b:1"), _outcome(EXIT_BAD_INPUT, 1))
    assert board.beat()
    board.end(("a:1", "b:1"), _outcome(EXIT_PREEMPTED, 0))
    news = board.news()
    assert (news.cause.rank, news.output, board.news().output) == (1, b"epoch 1", b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": 2, "min_workers": 3}, "at most --num_workers=2"),
        ({"address": "ray://head:10001"}, "auto or host:port"),
        ({"address": "auto", "dashboard": True}, "--dashboard is for a Ray"),
        ({"resources_per_worker": ("GPU=1",)}, "NAME=AMOUNT"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        RaySettings(**arguments)

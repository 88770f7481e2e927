"""`python -m launch.critical_batch` on a finished run, in real processes."""

import csv
import json
import shutil

import pytest

from launch.critical_batch import CriticalBatchSettings, ladder
from tests.helpers import programs
from tf_lars.errors import InputError
from tf_lars.planner import critical_batch_file

FLAGS = ("--smallest_batch=32", "--largest_batch=128", "--branch_steps=8", "--at=1")


def _measure(run, *flags):
    return programs.run("launch.critical_batch", f"--model_dir={run}", *FLAGS, *flags)


@pytest.mark.slow
def test_a_measurement_continues_after_its_budget_and_ends_with_a_file_for_the_planner(
    finished, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    first = _measure(run, "--repeats=2", "--budget_minutes=0.0001")
    assert first.returncode == 0, first.stderr
    assert (
        "6 branches of 1,024 examples at batches from 32 to 128, from steps 17; 0" in first.stdout
    )
    assert "is used up, with 5 branches left" in first.stdout
    assert not (run / "critical_batch.json").exists()
    second = _measure(run, "--repeats=2")
    assert second.returncode == 0, second.stderr
    assert "branch 5/5" in second.stdout
    assert "step 17: " in second.stdout
    lines = (run / "critical_batch.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines[1:]))
    assert [(row["repeat"], row["global_batch_size"]) for row in rows] == [
        (repeat, batch) for repeat in "01" for batch in ("32", "64", "128")
    ]
    # The smallest batch is one part on this one device; the others are two and four.
    assert not rows[0]["noise_scale"]
    content = critical_batch_file.read(str(run / "critical_batch.json"))
    [point] = content.points
    assert (point.step, content.model, content.optimizer) == (17, "small_resnet8", "lars")
    assert point.examples == 17 * 512
    assert (run / "critical_batch.png").stat().st_size > 10_000
    other = _measure(run, "--repeats=2", "--branch_steps=16")
    assert other.returncode == 2
    assert "Branches continue with the settings that they began with" in other.stderr


@pytest.mark.slow
def test_the_same_branch_ends_with_the_same_loss(finished, tmp_path):
    losses = []
    for name in ("one", "two"):
        run = tmp_path / name
        shutil.copytree(finished[0], run)
        assert _measure(run, "--repeats=1", "--budget_minutes=0.0001").returncode == 0
        losses.append((run / "critical_batch.csv").read_text().splitlines()[2].split(",")[3])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("batch", "given", "expected"),
    [
        (512, {}, [64, 128, 256, 512, 1024, 2048]),
        (32, {}, [8, 16, 32, 64, 128]),
        (512, {"smallest_batch": 32, "largest_batch": 128}, [32, 64, 128]),
    ],
)
def test_batches_double(batch, given, expected):
    assert ladder(CriticalBatchSettings(**given), batch) == expected


@pytest.mark.parametrize("largest", [96, 64, 32, 100])
def test_other_batches_are_refused(largest):
    with pytest.raises(InputError, match=r"--largest_batch must be 4, 8, 16"):
        ladder(CriticalBatchSettings(smallest_batch=32, largest_batch=largest), 512)


@pytest.mark.slow
def test_without_a_run_or_a_checkpoint_there_is_one_sentence(finished, tmp_path):
    missing = _measure(tmp_path / "nothing")
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    without = _measure(tmp_path / "run")
    assert without.returncode == 2
    assert "must have a checkpoint to branch from" in without.stderr


@pytest.mark.slow
def test_a_damaged_log_is_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    settings = json.dumps({"batches": [32, 64, 128], "branch_steps": 8, "seed": 0})
    (tmp_path / "run" / "critical_batch.csv").write_text(f"# {settings}\nstep,loss\n1,2\n")
    done = _measure(tmp_path / "run")
    assert done.returncode == 2
    assert "must hold results of branches" in done.stderr

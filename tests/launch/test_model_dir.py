"""The model folder of a run: remote, in use by another run, or not writable to the end."""

import json
import signal
import subprocess
import sys

import pytest

from launch.run import outcome, preflight
from launch.run.settings import TrainingSettings
from tests.helpers import programs
from tests.helpers.paths import ROOT
from tf_lars.errors import InputError

_REMOTE_RUN = """
import json, sys
from launch.run import load, preflight, process
from launch.run.settings import TrainingSettings
from tf_lars import files
from tf_lars.cluster.spec import Cluster
from tf_lars.tracking import results

folder = "ram://bucket/run"
settings = TrainingSettings(
    model="small_resnet8", data_dir=sys.argv[1], model_dir=folder, image_size=8, epochs=2,
    global_batch_size=256, warmup_epochs=1.0, evaluation_batch_size=180,
)
for _ in range(2):
    preflight.check(settings, 1)
    assert process.run(settings, Cluster(), 60) == 0
    settings = load.settings_of_run(folder)
from tf_lars import create_strategy
from tf_lars.data.records.dataset_info import DatasetInfo
trainer, checkpoint = load.load_run(settings, DatasetInfo.load(sys.argv[1]), create_strategy())
print("found", json.dumps({
    "names": {sub: files.names(f"{folder}/{sub}") for sub in ("", "checkpoints", "tensorboard")},
    "png": files.open_file(f"{folder}/report.png", "rb").read(4)[1:].decode(),
    "digest": files.read_json(f"{folder}/results.json")["weights_sha256"],
    "restored": results.weights_sha256(trainer.model),
}))
"""


@pytest.mark.slow
def test_all_files_of_a_run_go_to_a_remote_folder_and_are_found_there(digits_dir, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _REMOTE_RUN, digits_dir],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=programs.SECONDS,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("\nfound ")[2])
    assert found["names"] == {
        "": [
            "checkpoints",
            "flags.txt",
            "metrics.jsonl",
            "report.html",
            "report.png",
            "results.json",
            "tensorboard",
        ],
        "checkpoints": ["step-00000006", "step-00000012"],
        "tensorboard": ["train", "validation"],
    }
    assert (found["png"], found["digest"]) == ("PNG", found["restored"])
    assert "resuming from ram://bucket/run/checkpoints/step-00000012" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(short_run, tmp_path):
    flags = [*short_run, "--num_workers=1", f"--model_dir={tmp_path / 'run'}"]
    first = subprocess.Popen(
        [*programs.command("launch.local", *flags), "--epochs=100000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        # The first progress line.
        assert next(line for line in first.stdout if line.startswith("epoch"))
        second = programs.run("launch.local", *flags)
        assert (second.returncode, first.poll()) == (2, None)
        assert f"in which process {first.pid} on " in second.stderr
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=programs.SECONDS)
        assert first.returncode == 42
        assert programs.run("launch.local", *flags, "--resume=never").returncode == 0
    finally:
        first.kill()
        first.wait()


@pytest.fixture
def settings(digits_dir, tmp_path):
    return TrainingSettings(data_dir=digits_dir, model_dir=str(tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["flags.txt", "metrics.jsonl", "results.json", "report.html", "report.png"]
)
def test_a_file_that_could_not_be_written_at_the_end_is_named_before_the_start(
    name, settings, tmp_path
):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(InputError, match=f"run/{name}', which cannot be written"):
        preflight.check(settings, 1)


@pytest.mark.parametrize("make_folders", [True, False])
def test_a_file_system_that_there_is_not_is_named(make_folders, digits_dir):
    settings = TrainingSettings(data_dir=digits_dir, model_dir="nowhere://bucket/run")
    with pytest.raises(InputError, match=r"nowhere://bucket/run.*supports gs://"):
        preflight.check(settings, 1, make_folders=make_folders)


def test_what_is_written_at_the_end_costs_a_warning_and_not_the_run(tmp_path, capsys):
    def on_a_full_disk():
        raise OSError(28, "No space left on device")

    assert not outcome._written(str(tmp_path / "report.png"), on_a_full_disk)
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert "No space left on device" in told

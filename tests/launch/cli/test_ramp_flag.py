"""`--batch_size_schedule=auto` from the flags to the settings of a run."""

import pytest

from launch.cli import launcher
from tests.helpers import launcher_flags
from tf_lars.errors import InputError
from tf_lars.planner import critical_batch_file
from tf_lars.planner.critical_batch_file import CriticalBatches, CriticalBatchPoint


@pytest.fixture
def measured(tmp_path):
    """The path of a file with an efficient batch of 512 from the start, and of 2,048 at epoch 8."""
    points = [
        CriticalBatchPoint(step=i, epoch=epoch, examples=float(i), efficient=batch)
        for i, (epoch, batch) in enumerate([(0.0, 512.0), (8.0, 2048.0)])
    ]
    path = tmp_path / "critical_batch.json"
    critical_batch_file.write(str(path), CriticalBatches(tuple(points)))
    return path


def _settings(*arguments):
    with launcher_flags.parsed("--data_dir=data", "--model_dir=run", *arguments):
        return launcher.chosen_settings()[0]


def test_the_batches_follow_the_file_and_are_settings_of_the_run(measured):
    flags = ("--batch_size_schedule=auto", "--global_batch_size=512", "--epochs=20")
    settings = _settings(*flags, f"--critical_batch_file={measured}")
    assert settings.batch_size_schedule == "0:512,4:1024,8:2048"
    settings = _settings(*flags, f"--critical_batch_file={measured}", "--largest_batch=1024")
    assert settings.batch_size_schedule == "0:512,4:1024"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch_size_schedule=auto"], "Received: no --critical_batch_file"),
        (["--batch_size_schedule=auto", "--critical_batch_file=none.json"], "none.json"),
        (["--critical_batch_file=none.json"], "belongs to --batch_size_schedule=auto"),
        (["--batch_size_schedule=0:64", "--critical_batch_file=x"], "belongs to"),
    ],
)
def test_auto_and_its_file_belong_together(arguments, told):
    with pytest.raises(InputError, match=told):
        _settings(*arguments)

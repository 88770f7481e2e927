"""`--data=synthetic`: a run on two workers, a dry run, and what cannot be done without images."""

import json

import pytest

from launch.run import build_input
from launch.run.settings import TrainingSettings
from tests.helpers import launcher_flags, programs
from tf_lars.errors import InputError

FLAGS = [
    *("--model=small_resnet8", "--image_size=8", "--global_batch_size=64", "--epochs=2"),
    *("--warmup_epochs=1", "--learning_rate=1", "--num_workers=2", "--data=synthetic:500:12"),
]


@pytest.mark.slow
def test_two_workers_train_without_a_data_set(tmp_path):
    flags = [*FLAGS, "--mixup_alpha=0.2", f"--model_dir={tmp_path}"]
    shown = programs.run("launch.local", *flags, "--dry_run", "--dry_run_output=")
    assert shown.returncode == 0, shown.stderr
    about_data = (
        "data        synthetic: 500 training and 20 validation images, 12 classes of noise: its "
        "rate counts, its accuracy does not"
    )
    assert about_data in shown.stdout
    done = programs.run("launch.local", *flags)
    assert done.returncode == 0, done.stderr
    assert about_data in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["data"], results["synthetic"]) == ("synthetic", True)
    assert (results["steps"], results["eval_examples"]) == (16, 20)
    assert results["replica_weights_sha256"] == [results["weights_sha256"]] * 2

    refused = programs.run("launch.evaluate", f"--model_dir={tmp_path}")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "trained on noise by --data=synthetic:500:12" in refused.stderr
    other = programs.run("launch.local", *flags, "--data=synthetic:501:12")
    assert other.returncode == 2
    assert "with data=" in other.stderr


def test_a_run_has_one_source_of_images():
    with pytest.raises(InputError, match=r"one source of images.*an empty --data_dir= takes back"):
        TrainingSettings(data="synthetic", data_dir="data")
    settings, _ = launcher_flags.settings("--data_dir=from_a_flagfile", "--data_dir=", *FLAGS[-1:])
    assert build_input.description(settings).num_classes == 12


def test_a_recipe_is_chosen_for_the_size_of_imagenet():
    batch = ["--recipe=auto", "--global_batch_size=32768"]
    settings, _ = launcher_flags.settings("--data=synthetic", *batch)
    assert settings.epochs == 58
    with pytest.raises(InputError, match="Received: 500 in 'synthetic:500'"):
        launcher_flags.settings("--data=synthetic:500", *batch)


@pytest.mark.parametrize(
    "text",
    ["", "real", "synthetic:", "synthetic:0", "synthetic:9:1", "synthetic:5:2:1", "synthetic:x"],
)
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match="--data must be synthetic, synthetic:IMAGES or"):
        TrainingSettings(data=text)

"""A run that starts from the weights of another, for other classes and with frozen layers."""

import json
import shutil

import pytest

from tests.helpers import programs
from tf_lars.data.prepare import digits
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images

CLASSES = 4


@pytest.fixture(scope="module")
def flags(short_run, finished, tmp_path_factory):
    """Returns the flags of a run on the digits 0 to 3 from the weights of a run on all ten."""
    images = tmp_path_factory.mktemp("images")
    digits.write_image_folder(images)
    for folder in [*images.glob("train/*"), *images.glob("val/*")]:
        if int(folder.name) >= CLASSES:
            shutil.rmtree(folder)
    data = tmp_path_factory.mktemp("data") / "few"
    prepare_images(PrepareConfig(str(images), str(data), name="few digits"))
    return [
        *short_run,
        f"--data_dir={data}",
        "--global_batch_size=256",
        "--freeze=^(stem|stage1)_",
        f"--initial_weights={finished[0]}",
    ]


@pytest.mark.slow
def test_two_workers_fine_tune_and_a_kill_changes_nothing(flags, tmp_path):
    undisturbed = programs.run("launch.local", *flags, f"--model_dir={tmp_path / 'a'}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    printed = undisturbed.stdout
    # All but the head, whose shapes differ.
    assert "loaded            18         45        78,064" in printed, printed
    assert "logits: [64, 4] [4] here, [64, 10] [10] there" in printed
    assert "72,516 trainable and 5,136 frozen parameters" in printed

    code, printed, errors = programs.run_killing_worker_1(
        *flags, model_dir=tmp_path / "b", at="epoch 2/6"
    )
    assert code == 0, errors
    assert "restart 1 of at most 3" in errors
    assert "resuming from" in printed
    assert printed.count("weights     of") == 1  # a run that resumes has its own
    first, second = (json.loads((tmp_path / n / "results.json").read_text()) for n in "ab")
    assert first["frozen_parameters"] == 5136
    assert first["initial_weights"]
    for name in ("weights_sha256", "replica_weights_sha256", "loss", "top1", "steps"):
        assert first[name] == second[name], name

    refused = programs.run("launch.local", *flags, "--freeze=stem", f"--model_dir={tmp_path / 'a'}")
    assert refused.returncode == 2
    assert "freeze='^(stem|stage1)_' (now 'stem')" in refused.stderr


@pytest.mark.slow
def test_what_does_not_fit_ends_all_workers_with_one_sentence(flags, tmp_path):
    other = [*flags, "--model=alexnet", "--image_size=64", f"--model_dir={tmp_path / 'run'}"]
    refused = programs.run("launch.local", *other, "--freeze=conv")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stdout + refused.stderr
    assert "of which none fits: its layers begin with 'stem_conv'" in refused.stderr
    assert not programs.workers(tmp_path)

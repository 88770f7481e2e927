"""`--recipe=auto`: published settings, scaling from a baseline, and overriding flags."""

import dataclasses

import pytest

from launch.cli import recipe_flag
from tests.helpers import launcher_flags
from tf_lars.data.records.dataset_info import DatasetInfo, ShardInfo, SplitInfo
from tf_lars.errors import InputError
from tf_lars.recipes import recipes


@pytest.fixture
def data_dir(tmp_path):
    """Returns a function that creates a data set with some number of training images on paper."""

    def make(examples):
        splits = {}
        for split, count in (("train", examples), ("validation", 10)):
            shard = ShardInfo(
                f"{split}-00000-of-00001", num_examples=count, num_bytes=1, sha256="0" * 64
            )
            (tmp_path / shard.name).write_bytes(b"x")
            splits[split] = SplitInfo((shard,))
        DatasetInfo("made up", ("a",), ("a",), splits).save(tmp_path)
        return str(tmp_path)

    return make


def _settings(*arguments):
    settings, recipe = launcher_flags.settings("--model_dir=unused", *arguments)
    print(recipe, end="")
    return settings


def test_published_settings_of_the_batch_are_chosen_and_told(data_dir, capsys):
    folder = data_dir(recipes.IMAGENET_EXAMPLES)
    settings = _settings("--recipe=auto", f"--data_dir={folder}", "--global_batch_size=32768")
    assert settings.learning_rate == 21.2
    assert (settings.warmup_epochs, settings.epochs) == (16, 58)
    assert (settings.momentum, settings.weight_decay) == (0.94, 2.5e-5)
    assert (settings.label_smoothing, settings.schedule) == (0.1, "polynomial")
    assert settings.batch_norm_group_size == "recipe"
    printed = capsys.readouterr().out
    assert "rate 21.2 after 16 epochs" in printed
    assert "resnet_ref_32768, rules 4.0.0" in printed
    assert "75.9% top-1" in printed
    assert "batch normalisation in groups of 128 examples" in printed


def test_a_ramp_takes_the_recipe_of_its_first_batch(data_dir):
    folder = data_dir(recipes.IMAGENET_EXAMPLES)
    plain = _settings("--recipe=auto", f"--data_dir={folder}", "--global_batch_size=32768")
    ramp = "--batch_size_schedule=0:32768,30:65536"
    ramped = _settings("--recipe=auto", f"--data_dir={folder}", ramp)
    assert ramped == dataclasses.replace(plain, batch_size_schedule="0:32768,30:65536")


def test_a_flag_that_is_given_wins(data_dir, capsys):
    folder = data_dir(recipes.IMAGENET_EXAMPLES)
    settings = _settings(
        "--recipe=auto",
        f"--data_dir={folder}",
        "--global_batch_size=32768",
        "--learning_rate=10",  # Its default, but given.
        "--epochs=5",
        "--warmup_epochs=1",
    )
    assert (settings.learning_rate, settings.epochs, settings.warmup_epochs) == (10, 5, 1)
    assert settings.momentum == 0.94
    assert "overridden: learning_rate 10.0" in capsys.readouterr().out


def test_without_it_nothing_changes(data_dir, capsys):
    folder = data_dir(100)
    settings = _settings(f"--data_dir={folder}", "--global_batch_size=32768")
    assert (settings.learning_rate, settings.epochs) == (10, 90)
    assert capsys.readouterr().out == ""


def test_sgd_takes_the_settings_of_goyal(data_dir):
    folder = data_dir(recipes.IMAGENET_EXAMPLES)
    for optimizer in ("sgd", "nesterov"):
        settings = _settings(
            "--recipe=auto",
            f"--data_dir={folder}",
            "--global_batch_size=8192",
            f"--optimizer={optimizer}",
        )
        assert (settings.learning_rate, settings.initial_learning_rate) == (3.2, 0.1)
        assert (settings.schedule, settings.epochs) == ("step", 90)
        assert settings.label_smoothing == 0


def test_other_models_and_data_are_scaled_from_a_baseline(data_dir, capsys):
    folder = data_dir(1437)
    settings = _settings(
        "--recipe=auto",
        "--model=small_resnet14",
        f"--data_dir={folder}",
        "--global_batch_size=256",
        "--epochs=30",
        "--weight_decay=5e-4",
        "--baseline_learning_rate=5",
        "--baseline_batch_size=64",
    )
    assert settings.learning_rate == pytest.approx(10)
    assert (settings.epochs, settings.weight_decay) == (30, 5e-4)
    assert settings.batch_norm_group_size is None
    assert 5 < settings.warmup_epochs < 15
    assert "scaled (lars) from rate 5 at batch 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "examples", "message"),
    [
        (["--recipe=best"], 100, "--recipe must be none or auto. Received: 'best'"),
        (["--recipe=auto"], 100, r"ImageNet's 1,281,167 training images. Received: 100"),
        (
            ["--recipe=auto", "--global_batch_size=512"],
            recipes.IMAGENET_EXAMPLES,
            r"from 1,632 to 67,840. Received: 512",
        ),
        (["--recipe=auto", "--model=resnet18"], 100, r"published for alexnet_bn and resnet50"),
        (["--recipe=auto", "--baseline_batch_size=256"], 100, "Received: one of them. Give both"),
        (["--baseline_batch_size=256"], 100, "A baseline is for --recipe=auto"),
        (["--schedule=linear"], 100, "--schedule must be one of polynomial, cosine, step"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_a_sentence(arguments, examples, message, data_dir):
    with pytest.raises(InputError, match=message):
        _settings("--global_batch_size=4096", f"--data_dir={data_dir(examples)}", *arguments)


def test_every_setting_that_a_recipe_sets_is_an_attribute_of_recipes():
    assert set(recipe_flag._SET) <= set(recipes.Recipe.__dataclass_fields__)

"""`--batch_norm_group_size`, from the flag to the exported model."""

import subprocess
import sys

import pytest

from launch.run import batch_norm_groups, preflight
from launch.run.settings import TrainingSettings
from tests.helpers import programs
from tf_lars.errors import InputError


def _settings(**changes):
    return TrainingSettings(data="synthetic", model_dir="unused", **changes)


@pytest.mark.parametrize(
    ("batch", "replicas", "expected"),
    [(8192, 8, 64), (1632, 8, 204), (1632, 16, 204), (1632, 17, None), (8448, 8, None)],
)
def test_the_number_of_a_recipe_is_used_where_the_devices_can_form_the_groups(
    batch, replicas, expected
):
    settings = _settings(global_batch_size=batch, batch_norm_group_size="recipe")
    found = batch_norm_groups.resolve(settings, replicas)
    assert found.settings.batch_norm_group_size == expected
    assert ("as in the recipe" in found.line) == (expected is not None)


def test_the_number_of_a_user_stays_or_is_refused():
    settings = _settings(global_batch_size=512, batch_norm_group_size=128)
    assert batch_norm_groups.resolve(settings, 8).settings == settings
    with pytest.raises(InputError, match="a divisor of the global batch of 512"):
        batch_norm_groups.resolve(_settings(global_batch_size=512, batch_norm_group_size=1024), 8)
    with pytest.raises(InputError, match="--sync_batch_norm normalises the whole batch"):
        batch_norm_groups.resolve(_settings(sync_batch_norm=True, batch_norm_group_size=64), 2)
    whole = _settings(sync_batch_norm=True, batch_norm_group_size=256)
    assert "over the whole batch of 256" in batch_norm_groups.resolve(whole, 2).line
    for other in ({"sync_batch_norm": True}, {"batch_norm_group_size": 64}):
        with pytest.raises(InputError, match=f"--fused_batch_norm with --{next(iter(other))}"):
            batch_norm_groups.resolve(_settings(fused_batch_norm=True, **other), 2)
    uneven = _settings(global_batch_size=384, batch_norm_group_size=96)
    with pytest.raises(InputError, match=r"divide the 128 examples .* The nearest is 128"):
        batch_norm_groups.resolve(uneven, 3)


def test_preflight_finds_what_no_devices_can_form(tmp_path):
    def check(num_workers=1, **changes):
        settings = TrainingSettings(data="synthetic", model_dir=str(tmp_path), **changes)
        preflight.check(settings, num_workers, make_folders=False)

    check(batch_norm_group_size=96, global_batch_size=384, num_workers=3)
    check(batch_norm_group_size=16, micro_batch_size=32)
    with pytest.raises(InputError, match="must divide the 32 examples"):
        check(batch_norm_group_size=24, micro_batch_size=32, global_batch_size=384)
    with pytest.raises(InputError, match=r"in one pass, without XLA\. Received: --jit_compile"):
        check(batch_norm_group_size=256, jit_compile=True, num_workers=2)


@pytest.mark.exhaustive
def test_two_workers_train_in_groups_and_the_model_loads_anywhere(short_run, tmp_path):
    run, output = tmp_path / "run", tmp_path / "model.keras"
    flags = [f"--model_dir={run}", "--batch_norm_group_size=64"]
    done = programs.run("launch.local", *short_run, *flags)
    assert done.returncode == 0, done.stderr
    assert "batch norm  groups of 64 examples\n" in done.stdout
    assert "--batch_norm_group_size=64\n" in (run / "flags.txt").read_text()
    other = programs.run("launch.local", *short_run, f"--model_dir={run}")
    assert other.returncode == 2
    assert "batch_norm_group_size=64 (now None)" in other.stderr

    for program, more in (("evaluate", []), ("export", [f"--output={output}"])):
        done = programs.run(f"launch.{program}", f"--model_dir={run}", *more)
        assert done.returncode == 0, done.stderr
    load = "import keras, sys; keras.models.load_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", load, str(output)], check=True, timeout=300, cwd=tmp_path)

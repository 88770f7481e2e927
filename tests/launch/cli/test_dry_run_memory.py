"""`--dry_run --target`: whether the batch of a run fits into the memory of a device."""

import dataclasses
import re

import pytest

from launch.cli import dry_run, launcher
from tests.helpers import launcher_flags, programs
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import InputError
from tf_lars.planner import compiled_steps

SHORT = ("--data=synthetic:81920:1000", "--mixed_precision=bfloat16", "--epochs=2")
NODES = Cluster(tuple(f"node{i}:2222" for i in range(4)), 2, "--worker_hosts")


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Returns a function that makes a dry run of four workers, and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        default = ("--dry_run", "--dry_run_output=", "--model_dir=run", "--warmup_epochs=1")
        with launcher_flags.parsed(*default, *SHORT, *arguments):
            launcher.describe_data()
            assert dry_run.show(launcher.chosen_settings()[0], NODES) == 0
        return capsys.readouterr().out

    return run


def _memory(printed):
    return re.findall(r"^memory +(.*)$", printed, re.MULTILINE)


def test_a_batch_that_fits_is_told(show):
    printed = show("--target=h100_sxm", "--global_batch_size=4096")
    [told] = _memory(printed)
    assert re.fullmatch(
        r"4\d\.\d of 79\.11 GiB for 1,024 images at a time on h100_sxm, by XLA's count, without "
        "the workspace of libraries",
        told,
    )
    # The size of a target does not matter to the memory of a device.
    assert _memory(show("--target=h100_sxm:64", "--global_batch_size=4096")) == [told]
    assert _memory(show("--global_batch_size=4096")) == []


def test_a_batch_that_does_not_fit_is_refused_with_a_micro_batch_that_does(show):
    asked = ("--target=h100_sxm", "--global_batch_size=12000", "--devices_per_worker=1")
    with pytest.raises(InputError, match="must fit into its memory") as caught:
        show(*asked)
    [micro] = re.findall(r"Use (--micro_batch_size=\d+), which fits", str(caught.value))
    [told] = _memory(show(*asked, micro))
    assert told.endswith("without the workspace of libraries")


def test_a_micro_batch_that_is_found_by_trial_is_told(show):
    [told] = _memory(
        show("--target=h100_sxm", "--global_batch_size=16384", "--micro_batch_size=auto")
    )
    assert told == (
        "micro-batches of up to 1,024 images fit on h100_sxm, by XLA's count; their size is found "
        "by trial"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["--model=small_resnet8", "--image_size=32"],
        ["--image_size=192"],
        ["--mixed_precision=float16", "--target=b200"],
        # The largest images count.
        ["--image_size_schedule=0:128,1:256"],
    ],
)
def test_what_is_not_known_names_the_program_that_finds_out(flags, show):
    [told] = _memory(show("--target=h100_sxm", "--global_batch_size=4096", *flags))
    assert told.startswith("unknown for ")
    assert "launch.compile_for compiles this step, and --memory=FILE takes its results" in told


def test_a_file_of_the_user_is_used(show, tmp_path):
    step = compiled_steps.packaged()[0]
    mine = dataclasses.replace(step, model="small_resnet8", image_size=32, peak_bytes=2**32)
    path = tmp_path / "compiled.csv"
    compiled_steps.write_csv(str(path), [mine])
    asked = ["--target=h100_sxm", "--model=small_resnet8", "--image_size=32", f"--memory={path}"]
    [told] = _memory(show(*asked, f"--global_batch_size={4 * mine.per_replica_batch_size}"))
    assert told.startswith("4 of 79.11 GiB for 64 images")
    with pytest.raises(InputError, match="must fit into its memory"):
        show(*asked, "--global_batch_size=65536")
    path.write_text("nonsense", encoding="utf-8")
    assert "unknown" in show(*asked, "--global_batch_size=256")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target=h100"], "Did you mean h100_pcie or h100_sxm?"),
        (["--target=v5e:huge"], "its topology in chips"),
        (["--target=h100_sxm", "--memory=missing.json"], "A file must be readable"),
        (["--memory=compiled.json"], "--memory must be beside --target"),
    ],
)
def test_bad_flags_are_refused(flags, message, show):
    with pytest.raises(InputError, match=re.escape(message)):
        show("--global_batch_size=4096", *flags)


def test_a_program_ends_with_exit_code_2(tmp_path):
    done = programs.run(
        "launch.local",
        *SHORT,
        "--warmup_epochs=1",
        "--dry_run",
        "--dry_run_output=",
        "--global_batch_size=16384",
        "--target=v5e",
        "--devices_per_worker=4",
        f"--model_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: The images that a device processes at a time must fit")
    assert "GiB for 4,096 images at a time on v5e" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())

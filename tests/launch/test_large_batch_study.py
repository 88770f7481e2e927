"""`python -m launch.large_batch_study` from the command line."""

import collections
import csv
import signal
import subprocess

import pytest

from tests.helpers import programs

PROGRAM = "launch.large_batch_study"


@pytest.fixture
def tiny(digits_dir, tmp_path):
    """Returns the flags of a small study on the digits."""
    return [
        f"--data_dir={digits_dir}",
        f"--output={tmp_path / 'study'}",
        "--model=small_resnet8_w4",
        "--epochs=2",
        "--warmup_epochs=1",
        "--batch_sizes=256,512",
        "--main_batch_size=512",
        "--optimizers=lars,sgd",
        "--tuning_trials=2",
        "--equal_steps_batch_sizes=256",
        "--augmentation_epochs_factor=1.5",
        "--baseline_batch_size=128",
        "--seeds=0",
        "--few_seeds=1",
    ]


def _rows(tmp_path):
    with open(tmp_path / "study.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_study_runs_is_resumed_and_extended(tiny, tmp_path):
    part = programs.run(PROGRAM, *tiny, "--budget_minutes=0.0001")
    assert part.returncode == 0, part.stderr
    assert "trials left; the same command continues" in part.stdout
    some = _rows(tmp_path)

    done = programs.run(PROGRAM, *tiny)
    assert done.returncode == 0, done.stderr
    rows = _rows(tmp_path)
    assert rows[: len(some)] == some
    for words in ("ETA 0:00", "held-out", "LARS minus it", "within 5 points", "pad_crop"):
        assert words in done.stdout
    for name in ("batch", "rates", "augmentation"):
        assert (tmp_path / f"study_{name}.png").read_bytes().startswith(b"\x89PNG")
    trained = collections.Counter(
        (r["optimizer"], r["global_batch_size"], r["epochs"])
        for r in rows
        if r["augmentation"] == "none"
    )
    cells = [(name, batch, "2") for name in ("lars", "sgd") for batch in ("256", "512")]
    cells += [("sgd", "128", "2"), ("lars", "256", "4"), ("sgd", "256", "4")]
    longer = [("sgd", "128", "3"), ("lars", "512", "3"), ("sgd", "512", "3")]
    assert trained == dict.fromkeys(cells, 2) | dict.fromkeys(longer, 1)
    assert {row["augmentation"] for row in rows} == {"none", "pad_crop"}
    assert {(row["epochs"], row["warmup_epochs"]) for row in rows} == {
        ("2", "1"),
        ("3", "1.5"),
        ("4", "2"),
    }

    again = programs.run(PROGRAM, *tiny)
    assert again.stdout.startswith("0 trials to run")
    assert _rows(tmp_path) == rows

    refused = programs.run(PROGRAM, *tiny, "--trust_coefficient=0.1")
    assert refused.returncode == 2
    assert "trust_coefficient=0.001 (now 0.1)" in refused.stderr
    assert _rows(tmp_path) == rows

    more = programs.run(PROGRAM, *tiny, "--tuning_trials=3")
    assert more.returncode == 0, more.stderr
    assert _rows(tmp_path)[: len(rows)] == rows
    assert len(_rows(tmp_path)) > len(rows)


@pytest.mark.slow
def test_an_interrupted_study_says_how_it_goes_on_and_draws_what_there_is(tiny, tmp_path):
    process = subprocess.Popen(
        programs.command(PROGRAM, *tiny),
        cwd=programs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("trial 1/"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=programs.SECONDS)
    assert process.returncode == 130
    assert "the same command continues with the" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "study_rates.png").exists()


def test_a_dry_run_lists_the_trials_and_trains_nothing(tmp_path):
    listed = programs.run(PROGRAM, "--dry_run", f"--output={tmp_path / 'study'}")
    assert listed.returncode == 0, listed.stderr
    assert "lars     batch 1,024 30 epochs rate 24.95" in listed.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset=mnist"], "--preset must be digits or imagenette64"),
        (["--batch_sizes=a"], "--batch_sizes must be numbers separated by commas"),
        (["--optimizers=adam"], "--optimizers must be of lars, sgd, nesterov, lamb, adamw, muon"),
        (["--warmup_epochs=40"], "--epochs must be at least the warm-up, 40"),
        (["--model=nonsense"], "The model must be one of"),
        (["--augmentation=much"], "--augmentation must be one of"),
        (["--momentum=1"], "--momentum must be at least 0 and below 1"),
        (["--learning_rate_ranges=lars:1"], "OPTIMIZER:LOWEST:HIGHEST"),
        (["--crop_padding=2"], "--crop_padding must be from 0 to 0.5"),
        (["--mixed_precision=float16"], "--mixed_precision must be float32 or bfloat16"),
        (["--preset=imagenette64", "--data_dir=/nowhere"], "'/nowhere'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(flags, message, tmp_path):
    refused = programs.run(PROGRAM, f"--output={tmp_path / 'study'}", *flags)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr

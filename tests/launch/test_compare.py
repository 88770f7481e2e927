"""`python -m launch.compare` from the command line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import browser, run_folders
from tests.helpers.paths import ROOT
from tf_lars.tracking import comparison
from tf_lars.tracking.run_record import RunRecord


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of three runs, the last of them unfinished."""
    folder = tmp_path_factory.mktemp("runs")
    for name, optimizer, rate, epochs, warnings in (
        ("lars", "lars", 12.0, 10, ()),
        ("sgd", "sgd", 1.6, 10, ("input",)),
        ("nesterov", "nesterov", 3.2, 7, ("input", "straggler")),
    ):
        lines = run_folders.lines(
            epochs,
            paths=["head/kernel"],
            warnings=warnings,
            with_trust_ratio=optimizer == "lars",
            rate=rate,
        )
        run_folders.write(
            folder / name,
            of_settings=run_folders.settings(
                folder / name, optimizer=optimizer, learning_rate=rate
            ),
            of_lines=lines,
            of_results=run_folders.results() if epochs == 10 else None,
        )
    return folder


def _run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.compare", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def _row(printed, name):
    return next(line.split()[1:] for line in printed.splitlines() if line.startswith(f"{name} "))


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    """What the comparison of three runs prints, and its page."""
    page = tmp_path_factory.mktemp("page") / "three.html"
    # Flags may stand between the folders.
    done = _run(runs, "lars", "sgd", f"--output={page}", "nesterov")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"page in {page}" in done.stdout
    return done.stdout, page.read_text(encoding="utf-8")


def test_results_are_printed_side_by_side(compared):
    printed, _ = compared
    assert _row(printed, "results") == ["lars", "sgd", "nesterov"]
    assert _row(printed, "state") == ["finished", "finished", "unfinished"]
    assert _row(printed, "top1") == ["74.40%", "74.40%", "-"]
    assert _row(printed, "steps") == ["400", "400", "280"]
    assert _row(printed, "warnings") == ["0", "1", "2"]
    assert _row(printed, "images_per_second")[:2] == ["58,500", "58,500"]
    for name in ("best val_top1", "top5", "loss", "seconds"):
        assert f"\n{name} " in printed


def test_settings_are_printed_where_they_differ(compared):
    printed, _ = compared
    settings = printed.partition("settings that differ")[2]
    assert _row(settings, "optimizer") == ["lars", "sgd", "nesterov"]
    assert _row(settings, "learning_rate") == ["12.0", "1.6", "3.2"]
    assert "model_dir" not in settings
    assert "momentum" not in settings


def test_the_page_has_the_tables_and_the_curves(compared):
    _, source = compared
    page = browser.Page(source)
    page.check()
    assert source.count("<img") == 4
    for text in (
        "3 runs compared",
        "Validation top-1 over epochs",
        "Training loss over seconds",
        "unfinished",
        "best val_top1",
        "nesterov",
        "Settings that differ",
    ):
        assert text in page.text


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_scrolling_sideways(compared, width, tmp_path):
    measured = browser.measure(compared[1], width, tmp_path)
    assert measured["width"] == width
    assert measured["scrolled"] <= width
    assert measured["shown"] == measured["pictures"] == 4
    picture = np.asarray(browser.screenshot(compared[1], width, 900, tmp_path))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_runs_without_metrics_and_with_the_same_settings_have_tables(runs, tmp_path):
    settings = run_folders.settings("run")
    for name in ("a/run", "b/run"):
        run_folders.write(tmp_path / name, of_settings=settings)
    done = _run(tmp_path, "a/run", "b/run")
    assert done.returncode == 0, done.stderr
    assert "The runs have the same settings, except for their folders." in done.stdout
    assert _row(done.stdout, "results") == ["a/run", "b/run"]
    assert _row(done.stdout, "state") == ["unfinished", "unfinished"]
    page = browser.Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    page.check()
    assert "None of the runs has curves" in page.text


def test_no_page_is_written_where_none_is_asked_for(runs, tmp_path):
    done = _run(tmp_path, runs / "lars", runs / "sgd", "--output=")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_same_run_twice_has_two_names():
    record = RunRecord("runs/a", {})
    assert comparison.names([record, record]) == ["runs/a (1)", "runs/a (2)"]


def test_a_setting_that_is_newer_than_a_run_has_its_default():
    old, new = RunRecord("old", {}), RunRecord("new", {"momentum": "0.9", "freeze": "stem"})
    assert comparison.differences([old, new], {"momentum": "0.9"}) == [
        ("freeze", "not set", "stem")
    ]


def test_many_runs_have_a_page(tmp_path):
    lines = run_folders.lines(1, paths=["kernel"])
    records = [RunRecord(f"run{n}", {"seed": str(n)}, lines) for n in range(20)]
    page = browser.Page(comparison.page(records, {}))
    page.check()
    assert "20 runs compared" in page.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "A comparison needs 2 to 32 runs. Received: none."),
        (["lars"], "A comparison needs 2 to 32 runs. Received: 'lars'."),
        (["lars"] * 40, "Received: 'lars', 'lars', 'lars' and 37 more."),
        (["lars", "missing"], "Received: no file 'missing/flags.txt'."),
        (["lars", "."], "Received: no file './flags.txt'."),
        (["lars", "lars/flags.txt"], "Received: no file 'lars/flags.txt/flags.txt'."),
        (["lars", "sgd", "--output=missing/x.html"], "--output must be a .html file in an"),
        (["lars", "sgd", "--output=x.png"], "--output must be a .html file in an existing"),
        (["lars", "sgd", "--output=/proc/x.html"], "The output folder must be writable."),
        (["lars", "sgd", "--colour=red"], "Unknown command line flag 'colour'."),
        (["lars", "{damaged}"], "must be as its launcher has written them. Received: "),
        (["lars", "{foreign}"], "must be as its launcher has written them. Received: "),
    ],
)
def test_bad_input_ends_with_one_sentence(arguments, message, runs, tmp_path):
    damaged = tmp_path / "damaged"
    run_folders.write(damaged, of_results=run_folders.results())
    (damaged / "results.json").write_text('{"top1": ')
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "flags.txt").write_text("a text about flags\n")
    done = _run(runs, *(text.format(damaged=damaged, foreign=foreign) for text in arguments))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert done.stdout == "" or "/proc" in str(arguments)


def test_help_shows_the_flags(runs):
    done = _run(runs, "--help")
    assert done.returncode == 0
    assert "launch.compare runs/lars runs/sgd" in done.stdout
    assert "--output" in done.stdout


def test_other_programs_refuse_arguments_that_are_not_flags(runs):
    done = subprocess.run(
        [sys.executable, "-m", "launch.plan", "A30"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 2
    assert "Only flags of the form --name=value are accepted. Received: 'A30'." in done.stderr

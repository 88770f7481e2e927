"""report.html: what it says about a run, and that any browser shows it."""

import base64
import dataclasses
import json
import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from launch.run import forecast, layout, outcome
from launch.run.settings import default_texts
from tests.helpers import browser, run_folders
from tf_lars.errors import InputError
from tf_lars.tracking import html_page, report_page, run_pictures
from tf_lars.tracking.report_page import Forecast
from tf_lars.tracking.run_record import DIVERGED, FINISHED, UNFINISHED, RunRecord

SECTIONS = ["health", "training", "throughput", "layers", "gradient-noise-scale", "devices"]
SECTIONS += ["forecast-and-outcome", "results", "settings", "environment"]
MEGABYTE = 1_000_000


def _draw(record, planned=None):
    planned = planned or Forecast(["No forecast."])
    source = report_page.draw(record, defaults=default_texts(), forecast=planned)
    page = browser.Page(source)
    page.check()
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    return source, page


def _of(folder, **files):
    run_folders.write(folder, **files)
    return layout.record_of(str(folder))


def _section(source, name):
    """Returns what a section of a page holds."""
    return re.search(rf'<section id="{name}">(.*?)</section>', source, re.DOTALL)[1]


def _svgs(source):
    return [base64.b64decode(data) for data in re.findall(r"svg\+xml;base64,([^\"]+)", source)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The page of a run that was restarted and has warnings."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    lines = run_folders.lines(
        restart_at=200, warnings=("input", "straggler", "dead_layer", "critical_batch")
    )
    settings = run_folders.write(folder, of_lines=lines, of_results=run_folders.results())
    record = layout.record_of(str(folder))
    assert record.state == FINISHED
    return _draw(record, forecast.beside_outcome(settings, record))


def test_every_section_has_its_contents(full):
    source, page = full
    for section, texts in {
        "training": ["Loss", "Top-1 accuracy", "Top-5 accuracy", "Learning rate"],
        "throughput": ["Images per second", "waits for input", "MFU", "slowest worker"],
        "layers": ["Trust ratio", "Update ratio", "50 of 149 variables", "Norms"],
        "gradient-noise-scale": ["Noise scale and batch", "AdaScale", "24,501 examples"],
        "devices": ["Memory of a device", "Power"],
        "forecast-and-outcome": ["8 x H200-SXM", "58,500", "32 s", "--calibrate"],
        "results": ["74.40%", "eval_examples", "50,000"],
        "settings": ["mixed_precision", "bfloat16", "float32", "settings with their defaults"],
        "environment": ["8 x NVIDIA H200", "2.21.0"],
    }.items():
        contents = _section(source, section)
        assert [text for text in texts if text not in contents] == [], section
    assert "resnet50, lars, global batch 4,096" in page.text


def test_settings_that_differ_from_the_defaults_come_first(full):
    first, _, folded = _section(full[0], "settings").partition("<details>")
    for name in ("global_batch_size", "mixed_precision", "epochs"):
        assert f">{name}<" in first
        assert f">{name}<" not in folded
    assert ">momentum<" in folded
    assert ">momentum<" not in first


def test_warnings_are_listed_with_their_steps(full):
    contents = _section(full[0], "health")
    assert "4 warnings, by kind: input: 1, straggler: 1, dead layer: 1" in contents
    for kind, message in run_folders.WARNINGS.items():
        assert kind.replace("_", " ") in contents
        assert message in contents


def test_restarts_are_listed_with_what_has_changed(full):
    contents = _section(full[0], "environment")
    assert "restarted once" in contents
    assert "8 x NVIDIA H200 → 4 x NVIDIA H200" in contents
    assert "commit: 1a07d69 → b946504" in contents
    assert "python: " not in contents


def test_the_time_between_two_starts_is_not_training(tmp_path):
    record = _of(tmp_path, of_lines=run_folders.lines(restart_at=200))
    assert record.seconds.values[-1] == pytest.approx(0.08 * 400)


def test_pictures_are_well_formed_and_take_the_colours_of_the_page(full):
    pictures = _svgs(full[0])
    assert len(pictures) == 17
    for picture in pictures:
        xml.etree.ElementTree.fromstring(picture)
        assert b"prefers-color-scheme:dark" in picture
        assert b"var(--ink)" in picture
        assert b"DejaVu" not in picture
        assert b"http://" not in re.sub(rb'xmlns(:\w+)?="[^"]*"', b"", picture)


def test_layers_are_named_on_the_axis_of_the_map(full):
    maps = [svg for svg in _svgs(full[0]) if b"stage4_block2_conv1/kernel" in svg]
    assert len(maps) == 2
    assert all(b"stem_conv/kernel" in svg and b"image/png" in svg for svg in maps)


def test_names_and_texts_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>&\"'$x_1$"
    lines = run_folders.lines(1, paths=[evil, "head/kernel"])
    lines[0]["start"] = {evil: evil}
    lines.append({"step": 40, "time": 0.0, "warning": evil, "message": evil})
    settings = run_folders.settings(tmp_path, model=evil, mlperf_organization=evil)
    record = _of(
        tmp_path,
        of_settings=settings,
        of_lines=lines,
        of_results=run_folders.results(1, data=evil, device=evil),
    )
    source, page = _draw(record, Forecast([evil], [(evil,) * 4]))
    assert page.text.count(evil) >= 10
    assert "<script" not in source
    for picture in _svgs(source):
        xml.etree.ElementTree.fromstring(picture)
        assert b"<script" not in picture


def test_a_run_without_metrics_says_so_in_each_section(tmp_path):
    source, page = _draw(_of(tmp_path))
    assert "<img" not in source
    for section in ("health", "training", "throughput", "layers", "devices", "environment"):
        assert report_page.NO_METRICS in _section(source, section)
    assert "at least two parts" in _section(source, "gradient-noise-scale")
    assert "No results.json yet" in _section(source, "results")
    assert UNFINISHED in page.text


def test_an_optimizer_without_trust_ratios_is_named(tmp_path):
    settings = run_folders.settings(tmp_path, optimizer="sgd", noise_scale=False)
    lines = run_folders.lines(1, with_trust_ratio=False)
    for line in lines:
        for tag in [tag for tag in line if tag.startswith("noise/")]:
            del line[tag]
    source, _ = _draw(_of(tmp_path, of_settings=settings, of_lines=lines))
    assert "the optimizer is sgd, and only LARS has them" in _section(source, "layers")
    assert "switched off by --noise_scale=False" in _section(source, "gradient-noise-scale")


def test_a_diverged_run_is_drawn_up_to_where_it_was_finite(tmp_path):
    lines = run_folders.lines(2)
    for line in lines:
        if line["step"] > 60 and "epoch" in line:
            line |= {"loss": None, "top1": None, "norms/gradient": None, "noise/scale": None}
        if line["step"] > 60 and "layers" in line:
            line["layers"]["trust_ratio"] = dict.fromkeys(line["layers"]["trust_ratio"])
    message = "The loss has not been finite for 20 steps."
    lines.append({"step": 80, "time": 1.0, "warning": DIVERGED, "message": message})
    record = _of(tmp_path, of_lines=lines)
    assert record.state == DIVERGED
    source, page = _draw(record)
    assert message in page.text
    assert 'class="pill diverged"' in source
    # A later start that trains further has recovered.
    run_folders.write(tmp_path, of_lines=[*lines, *run_folders.lines(3)[-20:]])
    assert layout.record_of(str(tmp_path)).state == UNFINISHED


def test_results_of_another_end_are_told_apart(tmp_path):
    record = _of(tmp_path, of_lines=run_folders.lines(2), of_results=run_folders.results(1))
    assert record.state == UNFINISHED
    source, _ = _draw(record)
    assert "results.json is of step 40, but the metrics end at step 80" in source


@pytest.mark.parametrize(
    "value",
    [None, "text", True, [1], {}, 10**400, -1.0, 0.0, 1e308, 1e-308, -(10**18)],
    ids=lambda value: str(value)[:8],
)
def test_values_of_any_kind_are_drawn(value, tmp_path):
    lines = run_folders.lines(1, paths=["a/kernel", "b/kernel"])
    for line in lines:
        for tag in set(line) - {"step", "start", "layers", "epoch"}:
            line[tag] = value
        for of_tag in line.get("layers", {}).values():
            of_tag["a/kernel"] = value
    lines[3]["layers"] = value
    lines[4]["epoch"] = value
    results = dict.fromkeys(run_folders.results(), value)
    settings = run_folders.write(tmp_path, of_lines=lines, of_results=results)
    record = layout.record_of(str(tmp_path))
    _draw(record, forecast.beside_outcome(settings, record))


def test_one_step_and_one_layer_are_enough(tmp_path):
    lines = run_folders.lines(1, paths=["kernel"])
    one = [lines[0], *(line for line in lines if line["step"] == 5)]
    source, _ = _draw(_of(tmp_path, of_lines=one))
    assert source.count("<img") == 17


def test_without_epochs_the_axis_is_the_step(tmp_path):
    lines = run_folders.lines(1)
    for line in lines:
        line.pop("epoch", None)
    source, _ = _draw(_of(tmp_path, of_lines=lines))
    assert "Loss by step" in source
    assert "by epoch" not in source


def test_a_long_run_of_a_large_model_stays_below_a_megabyte(tmp_path):
    steps, paths = 20_000, [f"stage{n}/convolution/kernel" for n in range(400)]
    lines = run_folders.lines(1, paths=paths)
    row = next(line for line in lines if "epoch" in line)
    layers = next(line for line in lines if "layers" in line)
    generator = np.random.default_rng(0)
    long = []
    for step in range(1, steps + 1):
        noisy = {tag: value * generator.random() for tag, value in row.items() if tag != "epoch"}
        long.append(noisy | {"step": step, "time": float(step), "epoch": step / 100})
        if step % 20 == 0:
            long.append(layers | {"step": step})
        if step % 10 == 0:
            long.append({"step": step, "time": 0.0, "warning": "input", "message": "Slow. " * 20})
    record = RunRecord("run", {"model": "large", "optimizer": "lars"}, long)
    source, page = _draw(record)
    assert len(source.encode()) < MEGABYTE
    assert "2000 warnings" in page.text
    assert f"The last {report_page.LISTED_WARNINGS} are listed" in page.text
    assert f"{run_pictures.MOST_ROWS} of 400 variables" in page.text


def test_a_thinned_curve_keeps_the_range_of_its_values():
    y = np.sin(np.arange(10_000.0))
    y[5000] = 7.0
    y[6000:6100] = math.nan
    x, mean, low, high = run_pictures._thinned(np.arange(10_000.0), y)
    assert len(x) <= run_pictures.MOST_POINTS
    assert np.nanmax(high) == 7.0
    assert np.nanmin(low) == pytest.approx(-1, abs=1e-3)
    assert np.isnan(mean).sum() >= 2
    assert np.nanmean(mean) == pytest.approx(np.nanmean(y), abs=0.01)


def test_the_rows_of_a_map_are_kernels_and_those_that_vary():
    paths = [*run_folders.layer_paths((9, 9, 9, 9))]
    values = np.ones([len(paths), 4])
    collapsed = paths.index("stage3_block7_conv2/kernel")
    values[collapsed, 2:] = 1e-9
    rows, reason = run_pictures.chosen_rows(paths, values)
    assert len(rows) == run_pictures.MOST_ROWS
    assert collapsed in rows
    assert rows == sorted(rows)
    assert all(paths[row].endswith("kernel") for row in rows)
    assert reason == "without biases and normalisation, those that vary most"
    assert run_pictures.chosen_rows(paths[:9], values[:9]) == (list(range(9)), "")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"device": "CPU"}, "no published results for CPU"),
        ({"device": "NVIDIA GeForce GTX 960"}, "no published results for NVIDIA GeForce GTX 960"),
        ({"seconds": None}, "of an earlier version"),
        ({"steps": 5}, "which a run writes when it finishes"),
    ],
)
def test_the_reason_for_a_missing_forecast_is_one_sentence(changed, reason, tmp_path):
    settings = run_folders.write(
        tmp_path, of_lines=run_folders.lines(), of_results=run_folders.results(**changed)
    )
    planned = forecast.beside_outcome(settings, layout.record_of(str(tmp_path)))
    assert not planned.rows
    assert reason in planned.sentences[0]
    if "published" in reason:
        assert "--calibrate=RUN" in planned.sentences[0]


def test_a_run_whose_batch_grew_has_no_forecast(tmp_path):
    settings = run_folders.write(
        tmp_path, of_lines=run_folders.lines(), of_results=run_folders.results()
    )
    settings = dataclasses.replace(settings, batch_size_schedule="0:4096,2:8192")
    planned = forecast.beside_outcome(settings, layout.record_of(str(tmp_path)))
    assert not planned.rows
    assert "plans for one batch" in planned.sentences[0]


def test_the_forecast_is_the_planners(tmp_path):
    settings = run_folders.write(
        tmp_path, of_lines=run_folders.lines(), of_results=run_folders.results()
    )
    from tf_lars import planner
    from tf_lars.planner.plan_table import duration

    plan = planner.predict(
        accelerator="H200-SXM", devices=8, global_batch_size=4096, epochs=10, num_examples=163_840
    )
    planned = forecast.beside_outcome(settings, layout.record_of(str(tmp_path)))
    time, rate, _ = planned.rows
    assert time[1:3] == (duration(plan.minutes), "32 s")
    assert rate[1:3] == (f"{plan.images_per_second:,.0f}", "58,500")
    assert float(rate[3]) == pytest.approx(58500 / plan.images_per_second, abs=0.01)


def test_the_report_of_an_aborted_run_needs_only_its_folder(tmp_path, capsys):
    settings = run_folders.write(tmp_path, of_lines=run_folders.lines(2))
    assert outcome.write_report(settings)
    assert capsys.readouterr().out == f"report in {tmp_path / 'report.html'}\n"
    browser.Page((tmp_path / "report.html").read_text(encoding="utf-8")).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "flags.txt",
        "metrics.jsonl",
        "report.html",
    ]


@pytest.mark.parametrize("trouble", ["missing", "flags", "results", "metrics", "folder", "bug"])
def test_a_report_that_cannot_be_written_is_a_warning(trouble, tmp_path, capsys, monkeypatch):
    settings = run_folders.write(tmp_path, of_results=run_folders.results())
    if trouble == "missing":
        (tmp_path / "flags.txt").unlink()
    elif trouble == "flags":
        (tmp_path / "flags.txt").write_bytes(b"\xff\xfe")
    elif trouble == "results":
        (tmp_path / "results.json").write_bytes(b"[" * 100_000)
    elif trouble == "metrics":
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "x": "\xff"}\n')
    elif trouble == "folder":
        (tmp_path / "report.html").mkdir()
    else:
        monkeypatch.setattr(report_page, "draw", lambda *_, **__: 1 / 0)
    assert not outcome.write_report(settings)
    printed = capsys.readouterr().err
    assert printed.startswith("warning: ")
    assert len(printed.splitlines()) == 1


def test_a_folder_without_settings_is_not_a_run(tmp_path):
    with pytest.raises(InputError, match=r"must hold the flags\.txt.*no file"):
        layout.record_of(str(tmp_path))


def test_an_incomplete_last_line_is_left_out(tmp_path):
    lines = run_folders.lines(1)
    run_folders.write(tmp_path, of_lines=lines)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lines[-1])[:40])
    assert len(layout.record_of(str(tmp_path)).lines) == len(lines)


def test_texts_of_values():
    values = [("val_top1", 0.7612), ("steps", 12345), ("seconds", 4000.0), ("loss", math.nan)]
    assert [html_page.text_of(*pair) for pair in values] == [
        "76.12%",
        "12,345",
        "1 h 7 min",
        "not finite",
    ]
    assert html_page.duration(3 * 86400 + 7200) == "3 d 2 h"
    assert html_page.moment(math.nan) == ""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_scrolling_sideways(full, width, tmp_path):
    measured = browser.measure(full[0], width, tmp_path)
    assert measured["width"] == width
    assert measured["scrolled"] <= width
    assert measured["shown"] == measured["pictures"] == 17
    picture = np.asarray(browser.screenshot(full[0], width, 1600, tmp_path))
    colours = np.unique(picture.reshape(-1, 3), axis=0)
    assert len(colours) > 100
    # Curves of training and validation, in the colours of the page.
    for colour in (run_pictures.COLOURS[0], run_pictures.COLOURS[1]):
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - wanted).sum(axis=2) < 40).sum() > 100

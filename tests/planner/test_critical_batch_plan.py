"""Examples that a batch needs on your own data: closed forms, phases, intervals, files and runs."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lars import planner
from tf_lars.errors import InputError
from tf_lars.planner import (
    ExamplesNeeded,
    Measurement,
    Phase,
    Workload,
    critical_batch_file,
    plan_answer,
    reference_run,
)
from tf_lars.planner.critical_batch_file import CriticalBatches, CriticalBatchPoint
from tf_lars.planner.examples_needed import LAW_ERROR, phases_of
from tf_lars.planner.larger_batch import LargerBatch

POSITIVE = st.floats(1e-3, 1e9)
PHASES = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=5)


def _needed(batch, *phases):
    return ExamplesNeeded(batch, tuple(Phase(*phase) for phase in phases))


def test_doubling_the_batch_at_the_critical_batch_costs_one_and_a_half_times_the_examples():
    needed = _needed(1000, (5e6, 1000.0))
    assert needed(2000) / needed(1000) == pytest.approx(1.5)
    assert needed(1000) == pytest.approx(5e6)
    assert needed.critical_batch == pytest.approx(1000)


def test_examples_at_small_batches_and_steps_at_large_ones_have_the_limits_of_the_law():
    needed = _needed(512, (1e6, 2048.0))
    smallest = 1e6 / (1 + 512 / 2048)
    assert needed(1e-6) == pytest.approx(smallest)
    assert needed(1e12) / 1e12 == pytest.approx(smallest / 2048)
    # (S/S_min - 1)(E/E_min - 1) = 1, McCandlish et al.
    steps = needed(777) / 777
    assert (steps / (smallest / 2048) - 1) * (needed(777) / smallest - 1) == pytest.approx(1)


@settings(deadline=None)
@given(POSITIVE, PHASES, POSITIVE)
def test_phases_add_up_and_equal_one_critical_batch(batch, phases, other):
    needed = _needed(batch, *phases)
    by_phase = sum(e * (1 + other / b) / (1 + batch / b) for e, b in phases)
    assert needed(other) == pytest.approx(by_phase, rel=1e-9)
    assert needed(batch) == pytest.approx(sum(e for e, _ in phases), rel=1e-9)
    whole = needed.critical_batch
    ratio = (1 + other / whole) / (1 + batch / whole)
    assert needed(other) / needed(batch) == pytest.approx(ratio, rel=1e-9)
    bounds = [b for _, b in phases]
    assert min(bounds) * (1 - 1e-9) <= whole <= max(bounds) * (1 + 1e-9)


@settings(deadline=None)
@given(POSITIVE, st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE, POSITIVE), min_size=1), POSITIVE)
def test_the_interval_holds_the_estimate_and_shrinks_to_the_run_at_its_batch(batch, found, other):
    phases = [(examples, *sorted(rest)) for examples, *rest in found]
    phases = [(examples, middle, low, high) for examples, low, middle, high in phases]
    needed = _needed(batch, *phases)
    low, high = needed.interval(other)
    assert low * (1 - 1e-9) <= needed(other) <= high * (1 + 1e-9)
    least, most = needed.critical_batches
    assert least * (1 - 1e-9) <= needed.critical_batch <= most * (1 + 1e-9)
    assert needed.interval(batch) == pytest.approx((needed(batch), needed(batch)), rel=1e-9)


def test_unbounded_ends_are_the_cases_of_a_useless_and_of_a_free_larger_batch():
    unbounded = _needed(256, (1e6, 1000.0, 0.0, math.inf))
    # The law's own error, of two doublings, adds little to such ends.
    assert unbounded.interval(1024) == pytest.approx((1e6, 4e6), rel=0.02)
    assert unbounded.critical_batches == (0.0, math.inf)
    assert _needed(256, (1e6, 1000.0)).interval(1024) == (unbounded(1024),) * 2


def _point(examples, *numbers):
    return CriticalBatchPoint(int(examples), examples / 100, examples, *numbers)


def test_a_point_stands_for_the_examples_nearest_to_it():
    points = [_point(100, 10.0), _point(300), _point(500, 50.0), _point(900, 90.0)]
    assert phases_of(points, 1000) == (
        Phase(300, 10.0),
        Phase(400, 50.0),
        Phase(300, 90.0),
    )
    assert phases_of(points, 400) == (Phase(300, 10.0), Phase(100, 50.0))
    assert phases_of(points, 50) == (Phase(50, 10.0),)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((400.0, 200.0, 800.0), (400.0, 200.0, 800.0)),
        ((400.0, 200.0, None), (400.0, 200.0, math.inf)),
        ((400.0, None, 800.0), (400.0, 0.0, 800.0)),
        ((400.0, None, None), (400.0, None, None)),
        ((None, 200.0, None), (200.0, 200.0, math.inf)),
        ((None, None, 800.0), (800.0, 0.0, 800.0)),
        ((None, 200.0, 800.0), (400.0, 200.0, 800.0)),
    ],
)
def test_what_a_point_claims(numbers, expected):
    assert phases_of([_point(100, *numbers)], 1000) == (Phase(1000, *expected),)


def test_points_without_any_claim_are_refused():
    with pytest.raises(InputError, match=r"Received: 2 points without"):
        phases_of([_point(100), _point(200, None, None, None, 50.0)], 1000)


CONTENT = CriticalBatches(
    (_point(100, 400.0, 200.0, 800.0, 90.0), _point(200, None, 512.0, None, None)),
    model="small_resnet8",
    data="digits",
    optimizer="lars",
    tolerance=0.02,
)


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = str(tmp_path / "critical_batch.json")
    critical_batch_file.write(path, CONTENT)
    assert critical_batch_file.read(path) == CONTENT
    written = json.loads((tmp_path / "critical_batch.json").read_text())
    assert written["format"] == 1
    (tmp_path / "critical_batch.json").write_text(json.dumps(written | {"branches": [1, 2]}))
    assert critical_batch_file.read(path) == CONTENT
    numpy_point = CriticalBatchPoint(np.int64(3), np.float32(1), 30, np.float32(9))
    critical_batch_file.write(path, CriticalBatches((numpy_point,)))


def _written(**changed):
    point = {"step": 1, "epoch": 0.5, "examples": 10.0, "critical_batch": 5.0, "low": 4.0}
    point |= {"high": 6.0, "noise_scale": None} | changed.pop("point", {})
    content = {"format": 1, "points": [point], "model": None, "data": None, "optimizer": None}
    return content | {"tolerance": None} | changed


WITHOUT_LOW = {k: v for k, v in _written()["points"][0].items() if k != "low"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a JSON object"),
        ({}, "without 'format'"),
        (_written(format=2), "`format` must be 1. Received: format=2"),
        (_written(format=True), "must be a number"),
        (_written(points={}), "`points` must be a list"),
        (_written(points=[]), "at least one point"),
        (_written(points=[3]), "A point must be a JSON object"),
        (_written(points=[WITHOUT_LOW]), "without 'low'"),
        (_written(points=2 * _written()["points"]), "`step` of the points must be increasing"),
        (_written(point={"low": 5.5}), "ascending order"),
        (_written(point={"high": 0}), "`high` must be above 0"),
        (_written(point={"step": 1.5}), "`step` must be a whole number"),
        (_written(point={"critical_batch": "5"}), "must be a number"),
        (_written(point={"critical_batch": math.nan}), "must be above 0"),
        (_written(point={"examples": -1}), "`examples` must be from 0"),
        (_written(model=3), "`model` must be text or null"),
        (_written(tolerance=0), "`tolerance` must be above 0"),
    ],
)
def test_a_file_of_another_format_is_refused(content, message, tmp_path):
    path = tmp_path / "critical_batch.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(
        InputError, match=r"critical_batch_file.py. Received: .*Measure it"
    ) as error:
        critical_batch_file.read(str(path))
    assert message in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", ".", "bytes"):
        with pytest.raises(InputError, match=r"Received: "):
            critical_batch_file.read(str(tmp_path / name))


JSON = st.sampled_from([None, True, "", "5", [], {}, [1], 10**400]) | st.integers() | st.floats()


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(_written())), JSON), st.data())
def test_odd_values_are_refused_or_valid(changed, data):
    names = st.sampled_from(list(_written()["points"][0]))
    content = _written(point=data.draw(st.dictionaries(names, JSON, max_size=2)), **changed)
    try:
        found = critical_batch_file._parse(content)
    except (InputError, KeyError):
        return
    for point in found.points:
        bounds = [b for b in (point.low, point.critical_batch, point.high) if b is not None]
        assert bounds == sorted(bounds)
        assert all(0 < b < math.inf for b in bounds)


RESULTS = {"model": "small_resnet8", "data": "digits", "steps": 400, "epochs": 9}
RESULTS |= {"global_batch_size": 32, "top1": 0.9, "loss": 0.5}


def _run(folder, lines=(), **changed):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(RESULTS | changed))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


LINES = [
    {"step": 50, "time": 1.0, "start": {}},
    {"step": 100, "time": 1.0, "epoch": 2.0, "noise/scale": 70.0, "val_top1": 0.6, "val_loss": 2.0},
    {"step": 200, "time": 2.0, "epoch": 4.0, "noise/scale": 90.0, "val_top1": 0.85, "val_loss": 1},
    {"step": 300, "time": 2.0, "epoch": 6.0, "noise/scale": None, "val_top1": 0.8, "val_loss": 0.7},
]


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ({}, 400),
        ({"target_top1": 0.6}, 100),
        ({"target_top1": 0.7}, 200),
        ({"target_top1": 0.9}, 400),
        ({"target_loss": 0.8}, 300),
    ],
)
def test_the_first_evaluation_that_reaches_the_target_counts(target, steps, tmp_path):
    found = reference_run.scaling([_run(tmp_path / "run", LINES)], "100", **target)
    assert found.run.examples == 32 * steps
    assert found.run.examples_per_epoch == pytest.approx(1600)
    assert found.needed(32) == pytest.approx(32 * steps)


def test_the_first_run_that_has_reached_the_target_is_scaled(tmp_path):
    runs = [_run(tmp_path / "a", LINES), _run(tmp_path / "b", top1=0.95, global_batch_size=64)]
    found = reference_run.scaling(runs, "100", target_top1=0.95)
    assert (found.run.folder, found.needed.batch) == (str(tmp_path / "b"), 64)
    assert found.run.examples_per_epoch == pytest.approx(400 * 64 / 9)
    with pytest.raises(InputError, match=r"Received: --target_top1=0.97, but the best is 0.9 in"):
        reference_run.scaling(runs, "100", target_top1=0.97)


def test_auto_prefers_the_measured_file_of_the_first_run_to_the_noise_scale(tmp_path):
    run = _run(tmp_path / "run", LINES)
    proxy = reference_run.scaling([run], "auto")
    assert proxy.needed.critical_batch == pytest.approx(90)
    assert any("noise scale at step 200, only a proxy" in note for note in proxy.notes)
    assert any("uncertainty of the critical batch is unknown" in note for note in proxy.notes)
    path = str(tmp_path / "run" / "critical_batch.json")
    critical_batch_file.write(path, CONTENT)
    measured = reference_run.scaling([f"{run}/results.json"], "auto")
    assert [p.critical_batch for p in measured.needed.phases] == [400.0, 512.0]
    assert measured.needed.knows_its_error
    assert measured == reference_run.scaling([run], path)
    other = CriticalBatches((_point(10, 7.0),), model="small_resnet14")
    critical_batch_file.write(path, other)
    notes = reference_run.scaling([run], "auto").notes
    assert "the file is of model small_resnet14, but the run is of model small_resnet8" in notes


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        ("auto", {}, "which has neither"),
        ("0", {}, r"--critical_batch must be above 0"),
        ("nan", {}, r"--critical_batch must be above 0"),
        ("soon", {}, r"must be auto, a number of examples or a file .*'soon'"),
        ("100", {"steps": 0}, r"results.json of a finished run.*steps must be from 1"),
        ("100", {"epochs": None}, r"results.json of a finished run"),
    ],
)
def test_a_run_or_critical_batch_that_cannot_be_used_is_refused(text, changed, message, tmp_path):
    with pytest.raises(InputError, match=message):
        reference_run.scaling([_run(tmp_path / "run", **changed)], text)


WORKLOAD = Workload("small_resnet8 at 32 px", 0.0, 1000)
DEVICE = planner.calibrate(
    [Measurement("CPU", p, 64 * p, 0.5, WORKLOAD) for p in (1, 4)], network="1:1000"
)


def _at(needed, **more):
    return functools.partial(
        planner.predict, accelerator=DEVICE, examples_needed=needed, num_examples=1e6, **more
    )


def test_a_plan_takes_its_epochs_and_their_interval_from_the_critical_batch():
    needed = _needed(64, (1e7, 1024.0, 512.0, 2048.0))
    plan = _at(needed)(devices=16, global_batch_size=1024)
    assert plan.epochs == pytest.approx(10 * 2 / (1 + 64 / 1024))
    assert plan.steps == round(plan.epochs * 1e6 / 1024)
    fewest, most = plan.epochs_interval
    own = LAW_ERROR * math.log2(1024 / 64)
    for end, of_phase in ((fewest, 10 * 1.5 / (1 + 64 / 2048)), (most, 10 * 3 / (1 + 64 / 512))):
        expected = math.hypot(math.log(of_phase / plan.epochs), own)
        assert abs(math.log(end / plan.epochs)) == pytest.approx(expected)
    low, high = plan.minutes_interval
    step = plan.relative_error
    assert math.log(high / plan.minutes) == pytest.approx(
        math.hypot(step, math.log(most / plan.epochs))
    )
    assert math.log(plan.minutes / low) == pytest.approx(
        math.hypot(step, math.log(plan.epochs / fewest))
    )
    exact = _at(_needed(64, (1e7, 1024.0)))(devices=16, global_batch_size=1024)
    assert exact.epochs_interval is None
    assert exact.minutes_interval == pytest.approx(
        [exact.minutes * math.exp(sign * step) for sign in (-1, 1)]
    )
    with pytest.raises(InputError, match="`epochs` must be None"):
        _at(needed, epochs=3)(devices=1, global_batch_size=64)


def test_the_last_line_follows_the_law_where_steps_take_the_same_time():
    needed = _needed(64, (1e9, 1024.0, 512.0, None))
    at = _at(needed)
    larger = LargerBatch.of(at, at(devices=8, global_batch_size=512), needed)
    assert larger.share == pytest.approx(0.5)
    assert larger.examples_factor == pytest.approx(2 / 1.5)
    # Twice the examples over twice the batch: (1 + 2x) / (2 (1 + x)) of the time, 0.9 at x = 4.
    assert larger.on_twice_the_devices.minutes == pytest.approx(
        larger.plan.minutes * 2 / 3, rel=0.02
    )
    assert larger.last_saving.global_batch_size == pytest.approx(4 * 1024, rel=0.05)
    words = larger.describe()
    assert words.startswith("Batch 512 is 0.5 of the critical batch of 1,000 (510 to 1,000); ")
    assert "costs 1.33 times the examples and, on 16 devices, saves 33% of the time (on 8" in words
    assert "it saves less than 10%." in words


def test_words_for_bounds_and_batches_far_from_the_critical_one():
    for low, high, words in (
        (500.0, math.inf, "of 1,000 (at least 500);"),
        (0.0, 2000.0, "of 1,000 (at most 2,000);"),
        (0.0, math.inf, "of 1,000;"),
    ):
        needed = _needed(64, (1e9, 1000.0, low, high))
        at = _at(needed)
        plan = at(devices=1, global_batch_size=1000)
        text = LargerBatch.of(at, plan, needed).describe()
        assert text.startswith(f"Batch 1,000 is about the critical batch {words}")
        assert LargerBatch.of(at, plan, needed).as_json()["low"] == low
    needed = _needed(64, (1e9, 1e12))
    at = _at(needed)
    text = LargerBatch.of(at, at(devices=1, global_batch_size=64), needed).describe()
    assert "up to 6,400,000, it saves at least 10%" in text
    needed = _needed(64, (1e9, 1.0))
    at = _at(needed)
    text = LargerBatch.of(at, at(devices=1, global_batch_size=64), needed).describe()
    assert text.startswith("Batch 64 is 64 times the critical batch of 1; ")
    assert text.endswith("it never saves 10% or more.")


def test_the_cheapest_and_the_quickest_plan_are_of_the_table():
    at = functools.partial(planner.predict, accelerator="A100-SXM", price_per_device_hour=2)
    plan = at(devices=64, global_batch_size=16384)
    found = plan_answer.answer(at, plan, optimizer="lars")
    rows = [*found.same_batch, *found.same_images]
    assert found.cheapest.cost == min(row.cost for row in rows)
    assert found.quickest.minutes == min(row.minutes for row in rows)
    within = plan_answer.answer(at, plan, optimizer="lars", deadline_minutes=6)
    assert within.cheapest.minutes <= 6 < found.cheapest.minutes
    free = functools.partial(planner.predict, accelerator="A100-SXM")
    found = plan_answer.answer(free, free(devices=64, global_batch_size=16384), optimizer="lars")
    assert found.cheapest is found.quickest is None

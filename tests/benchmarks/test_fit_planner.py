"""The fit recovers known constants, and the committed constants are those that it finds."""

import csv
import dataclasses

import numpy as np
import pytest

from benchmarks import fit_planner
from tf_lars import planner
from tf_lars.planner import devices
from tf_lars.planner.published import published_results

pytestmark = pytest.mark.slow

FITTED = [result for result in published_results() if result.fitted]


def _made_up(name, rate, overhead, growth, noise=0.0):
    """Returns results of a family that follows the model."""
    random = np.random.default_rng(0)
    out = []
    for count, images in ((8, 400), (8, 200), (64, 100), (64, 50), (512, 40), (4096, 16)):
        seconds = (images + overhead + growth * np.log2(count)) / rate
        seconds *= np.exp(noise * random.normal())
        template = dataclasses.replace(
            FITTED[0], accelerator=name, devices=count, global_batch_size=images * count
        )
        minutes = template.minutes * seconds / template.step_seconds
        out.append(dataclasses.replace(template, minutes=minutes))
    return out


def test_known_constants_are_found():
    results = [
        *_made_up("a", 3000, 20, 0.3),
        *_made_up("b", 800, 30, 0.0),
        *_made_up("c", 7000, 15, 0.3),
    ]
    families = fit_planner.fit(results)
    # The priors pull h and k towards their means, with hardly any effect on predictions.
    assert np.abs(fit_planner.errors(families, results)).max() < 0.05
    for name, rate, overhead, growth in (
        ("a", 3000, 20, 0.3),
        ("b", 800, 30, 0),
        ("c", 7000, 15, 0.3),
    ):
        family = families[name]
        assert family.images_per_second == pytest.approx(rate, rel=0.03)
        assert family.overhead_images == pytest.approx(overhead, rel=0.3)
        assert family.growth_images == pytest.approx(growth, abs=0.35)
        assert family.growth_images >= 0
        assert (family.results, family.most_devices) == (6, 4096)
        assert abs(family.images_per_second - rate) < 3 * family.images_per_second_error


def test_a_family_with_one_result_takes_its_overhead_from_the_others():
    lone = _made_up("lone", 5000, 25, 0.0)[:1]
    families = fit_planner.fit(
        [*_made_up("a", 3000, 25, 0.0), *_made_up("b", 1000, 25, 0.0), *lone]
    )
    assert families["lone"].overhead_images == pytest.approx(25, rel=0.15)
    assert fit_planner.errors(families, lone)[0] == pytest.approx(0, abs=0.02)


def test_one_odd_result_moves_the_others_little():
    honest = _made_up("a", 3000, 20, 0.0)
    odd = dataclasses.replace(honest[3], minutes=3 * honest[3].minutes)
    families = fit_planner.fit([*honest[:3], odd, *honest[4:]])
    assert np.abs(np.delete(fit_planner.errors(families, honest), 3)).max() < 0.06


def test_the_committed_constants_are_what_the_script_finds():
    families = fit_planner.fit(FITTED)
    assert sorted(families) == planner.accelerators()
    for name, family in families.items():
        committed = planner.device(name)
        for field in dataclasses.fields(family):
            if field.name in ("name", "relative_error"):
                continue
            expected = getattr(family, field.name)
            assert getattr(committed, field.name) == pytest.approx(expected, rel=0.01, abs=0.01)
        assert 0.03 < committed.relative_error < 0.3


def test_the_committed_shares_of_a_data_sheet_are_what_the_script_finds():
    share, bytes_per_flop, rows = fit_planner.data_sheets(fit_planner.fit(FITTED))
    assert share == pytest.approx(devices.FLOPS_SHARE)
    assert bytes_per_flop == pytest.approx(devices.BYTES_PER_FLOP)
    squares = [row["left_out_error_percent"] ** 2 for row in rows]
    assert np.sqrt(np.mean(squares)) / 100 == pytest.approx(devices.HARDWARE_ERROR, abs=0.01)


def test_the_judged_families_have_four_results_and_are_no_cpus():
    judged = fit_planner.judged(FITTED)
    assert len(judged) == 125
    assert {r.accelerator for r in judged} == {
        *("A100-PCIe", "A100-SXM", "A30", "Gaudi", "Gaudi2", "H100-PCIe", "H100-SXM"),
        *("TPUv3", "TPUv4", "V100-SXM"),
    }


def test_every_paper_that_was_read_is_in_the_table_of_errors():
    with open("benchmarks/results/planner_papers.csv") as file:
        rows = list(csv.DictReader(file))
    papers = [r for r in published_results() if not r.is_mlperf]
    assert [(r["work"], float(r["published_minutes"])) for r in rows] == [
        (r.work, r.minutes) for r in papers
    ]
    for row, paper in zip(rows, papers, strict=True):
        plan = planner.predict(
            model=paper.model,
            accelerator=paper.accelerator,
            devices=paper.devices,
            global_batch_size=int(row["global_batch_size"]),
            epochs=paper.epochs,
        )
        assert float(row["predicted_minutes"]) == pytest.approx(plan.minutes, rel=0.02, abs=0.02)


@pytest.mark.exhaustive
def test_results_that_were_left_out_are_predicted_within_the_bounds():
    rows = fit_planner.validate(FITTED, repeats=2)
    errors = {(row["results"], row["epochs"]): row for row in rows}
    for results in ("leave one out", "10 folds"):
        row = errors[results, "as published"]
        assert row["mean_error_percent"] <= 8
        assert row["percentile_90_percent"] <= 15
    row = errors["in sample", "as published"]
    assert row["mean_error_percent"] <= 7
    assert row["percentile_90_percent"] <= 13

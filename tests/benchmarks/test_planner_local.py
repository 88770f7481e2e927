"""Comparison of measured and predicted runs, on runs that follow the model."""

import json

import pytest

from benchmarks import planner_local


def test_the_other_settings_are_predicted_from_the_first_two(tmp_path):
    rates = {}
    for workers, batch in (*planner_local.GIVEN, *planner_local.PREDICTED):
        cores = 2 / workers
        rate = 100 * (cores if cores <= 1 else cores**0.4)
        seconds = batch / workers / rate + 0.01
        rates[workers, batch] = [0.5 * batch / seconds, batch / seconds, 0.8 * batch / seconds]
        (tmp_path / f"{workers}-{batch}").mkdir()
        run = {
            "model": "small_resnet14_w16",
            "image_size": 32,
            "parameters": 175_000,
            "forward_flops": 0,
            "device": "CPU",
            "replicas": workers,
            "cores_per_replica": cores,
            "num_hosts": 1,
            "global_batch_size": batch,
            "images_per_second": 1.0,  # the fastest run is used, not this one
        }
        (tmp_path / f"{workers}-{batch}" / "results.json").write_text(json.dumps(run))
    rows = planner_local.compare(rates, tmp_path)
    assert [row["role"] for row in rows] == ["given"] * 2 + ["predicted"] * 4
    for row in rows:
        assert abs(row["error_percent"]) < 5
        assert row["slowest_images_per_second"] < row["fastest_images_per_second"]
    assert rows[0]["measured_step_ms"] == pytest.approx(1e3 * (256 / 131.95 + 0.01), rel=1e-3)

import os
import sys

import pytest

from benchmarks import weak_scaling, weak_scaling_worker
from benchmarks.weak_scaling import TF_LARS, TORCH


def test_the_efficiency_is_the_ratio_of_cpu_times_per_image(tmp_path):
    times = {
        (TF_LARS, 10, 1): {"cpu": [0.8, 0.9, 0.7], "wall": [1.0] * 3},
        (TF_LARS, 10, 2): {"cpu": [1.0] * 6, "wall": [2.0] * 6},
        (TF_LARS, 20, 1): {"cpu": [1.8] * 3, "wall": [2.0] * 3},
        (TF_LARS, 20, 2): {"cpu": [2.0] * 6, "wall": [4.0] * 6},
        (TORCH, 10, 1): {"cpu": [0.4] * 3, "wall": [0.4] * 3},
        (TORCH, 10, 2): {"cpu": [0.5] * 6, "wall": [0.5] * 6},
    }
    rows = weak_scaling.table(times)
    assert [row["cpu_efficiency"] for row in rows] == [1.0, 0.8, 1.0, 0.9, 1.0, 0.8]
    assert [row["images_per_second"] for row in rows] == [10.0, 10.0, 10.0, 10.0, 25.0, 40.0]
    assert [row["cpu_ms_per_image_median"] for row in rows] == [
        80.0,
        100.0,
        90.0,
        100.0,
        40.0,
        50.0,
    ]
    weak_scaling.chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_warm_up_does_not_count(monkeypatch):
    marks = iter([(0.0, 0.0), (5.0, 6.0), (6.0, 8.0), (8.0, 9.0)])
    times = weak_scaling_worker.Times()
    times.marks = list(marks)
    assert times.result({"warm_up": 2}) == {"cpu": [1.0, 2.0], "wall": [2.0, 1.0]}


def test_torch_trains_the_same_network():
    pytest.importorskip("torch")
    network = weak_scaling_worker.torch_resnet50()
    assert sum(p.numel() for p in network.parameters()) == 25_557_032


@pytest.mark.exhaustive
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_workers_train():
    task = {"batch": 2, "image_size": 32, "steps": 2, "warm_up": 1, "threads": 1}
    times = weak_scaling.run("tf_lars", 2, task, sys.executable)
    assert {key: len(values) for key, values in times.items()} == {"cpu": 4, "wall": 4}
    assert min(times["cpu"]) > 0

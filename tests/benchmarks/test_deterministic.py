import os

import pytest

from benchmarks import deterministic
from benchmarks.deterministic import Task
from benchmarks.interleaved import Turn


def test_table():
    taken = {
        "default": [Turn(100, 1.0, 0.5), Turn(100, 2.0, 1.0), Turn(100, 3.0, 2.0)],
        "--deterministic": [Turn(100, 5.0, 4.0)],
    }
    first, second = deterministic.table(taken)
    assert (first["cpu_ms_per_image_median"], first["images_per_second"]) == (20.0, 100.0)
    assert (second["cpu_to_default"], second["cpu_ms_per_image_min"]) == (2.5, 50.0)


@pytest.mark.exhaustive
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes take turns on Linux only"
)
def test_both_train():
    tasks = {
        name: Task(chosen, batch_size=2, image_size=32, cores=1)
        for name, chosen in deterministic.CONTENDERS.items()
    }
    taken = deterministic.measure(tasks, steps=1, rounds=1)
    assert {name: [turn.images for turn in values] for name, values in taken.items()} == {
        "default": [2],
        "--deterministic": [2],
    }

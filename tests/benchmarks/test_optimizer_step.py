import csv

import numpy as np
import pytest

from benchmarks import optimizer_peers as peers
from benchmarks import optimizer_step, tables


@pytest.fixture(scope="module")
def task():
    return peers.problem([(3, 4), (4,), (4, 2)])


@pytest.mark.parametrize("name", [*peers.OURS, *peers.PEERS])
def test_every_contender_that_is_installed_takes_steps(name, task):
    weights = [w.copy() for w in task.weights]
    try:
        step = {**peers.OURS, **peers.PEERS}[name](task)
    except ImportError as error:
        pytest.skip(str(error))
    step()
    step()
    # Contenders copy the weights, so that all start from the same.
    for before, after in zip(weights, task.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_tables_and_charts(task, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(peers, "resnet50", lambda: task)
    rows = optimizer_step.compare(peers, rounds=2, all_forms=False)
    names = [row["optimizer"] for row in rows]
    assert {peers.LARS_DEFAULT, peers.SGD, "Keras LAMB", peers.COPY} <= set(names)
    printed = capsys.readouterr().out
    for name in {*peers.PEERS} - set(names):
        assert f"skipped: {name} (No module named" in printed
    sgd = rows[names.index(peers.SGD)]
    assert sgd["cpu_to_sgd"] == 1.0
    assert all(row["rounds"] == 2 for row in rows)
    tables.write(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert [row["optimizer"] for row in csv.DictReader(file)] == names
    optimizer_step.chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_overhead_is_the_slope_over_the_variables():
    rows = [
        {"series": "variables", "optimizer": "x", "variables": n, "cpu_ms_median": 2 + 0.05 * n}
        for n in (10, 100, 1000)
    ]
    assert optimizer_step.overhead(rows, "x") == pytest.approx(50.0)

import csv

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import grouped_convolution as benchmark
from benchmarks import tables


def test_all_contenders_give_the_same_gradients_and_are_measured(tmp_path):
    contenders = benchmark.steps(5, 4, 6, 3, batch=2)
    try:
        gradients = {name: [g.numpy() for g in step()] for name, step in contenders.items()}
    except tf.errors.InvalidArgumentError as error:
        # TensorFlow has these gradients in oneDNN only, which it uses on some CPUs. The others'
        # kernel refuses them, or takes the filter of one group for that of all.
        told = ("not supported on CPU", "filter_size does not have enough elements")
        if not any(words in error.message for words in told):
            raise
        pytest.skip("TensorFlow has no gradients of grouped convolutions on this CPU")
    for ours, *others in zip(*gradients.values(), strict=True):
        for other in others:
            np.testing.assert_allclose(other, ours, rtol=1e-4, atol=1e-4)

    times = benchmark.measure(contenders, rounds=2)
    rows = [row for layer in benchmark.LAYERS for row in benchmark.table(layer, times)]
    assert {row["rounds"] for row in rows} == {2}
    assert {row["cpu_to_ours"] for row in rows if row["convolution"] == benchmark.OURS} == {1.0}
    tables.write(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    benchmark.chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

import csv
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import augmentation

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", list(augmentation.CONTENDERS))
def test_every_contender_that_is_installed_makes_images(name):
    try:
        function = augmentation.CONTENDERS[name](5.0)
    except ImportError as error:
        pytest.skip(str(error))
    indices = tf.range(4, dtype=tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, indices)).map(function)
    for element in dataset:
        assert tf.nest.flatten(element)[0].shape == (32, 32, 3)


def test_photos_are_cut_to_squares(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(3):
            encoded = io.BytesIO()
            Image.new("RGB", (60, 40 + i)).save(encoded, "JPEG")
            member = tarfile.TarInfo(f"{i}.JPEG")
            member.size = encoded.tell()
            encoded.seek(0)
            tar.addfile(member, encoded)
    assert augmentation.load(path, 2, 24).shape == (2, 24, 24, 3)


def test_table_and_chart(monkeypatch, tmp_path, capsys):
    def absent(magnitude):
        raise ImportError("No module named 'absent'")

    kept = {name: augmentation.CONTENDERS[name] for name in (augmentation.NOTHING,)}
    kept[augmentation.OURS] = lambda magnitude: lambda image, index: tf.sort(image)
    monkeypatch.setattr(augmentation, "CONTENDERS", kept | {"peer": absent})
    iterators = augmentation.pipelines(IMAGES, 5.0, with_operations=False)
    assert "skipped: peer (No module named 'absent')" in capsys.readouterr().out
    rows = augmentation.table(augmentation.measure(iterators, 20, rounds=2), rounds=2)
    assert [row["augmentation"] for row in rows] == [augmentation.OURS]
    assert rows[0]["cpu_to_tf_lars"] == 1.0
    augmentation.write(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert [row["augmentation"] for row in csv.DictReader(file)] == [augmentation.OURS]
    augmentation.chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_times_are_those_above_the_empty_pipeline():
    times = {
        augmentation.NOTHING: [1.0, 3.0, 2.0],
        augmentation.OURS: [4.0, 5.0, 4.0],
        "peer": [8.0, 7.0, 8.0],
    }
    ours, peer = augmentation.table(times, rounds=3)
    assert (ours["cpu_ms_median"], ours["cpu_ms_min"], ours["cpu_to_tf_lars"]) == (2.0, 2.0, 1.0)
    assert (peer["cpu_ms_median"], peer["cpu_ms_min"], peer["cpu_to_tf_lars"]) == (6.0, 5.0, 3.0)

import csv
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import image_preparation, tables
from benchmarks.preparation_contenders import full_decode_shard
from tf_lars.data.prepare.shard_writer import write_task


@pytest.fixture
def photos(tmp_path):
    """Three photos, one in each class."""
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for number in range(3):
            buffer = io.BytesIO()
            pixels = np.full((300, 400 + number, 3), 50 * number, np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            info = tarfile.TarInfo(f"photos/n{number:08d}/{number}.JPEG")
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)
    (tmp_path / "work").mkdir()
    return image_preparation.Photos(tmp_path / "photos.tar", tmp_path / "work")


def features(path):
    return [
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset(str(path))
    ]


def test_both_converters_write_the_same_images(photos, tmp_path):
    tasks = [
        photos.task(name, 4) for name in (image_preparation.FULL_DECODE, image_preparation.OURS)
    ]
    shard = tmp_path / "work/shards/train-00000-of-99999"
    full_decode_shard(tasks[0].task)
    theirs = features(shard)
    shard.unlink()
    write_task(tasks[1].task, lambda count: None)
    ours = features(shard)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        same = {"image/encoded", "image/height", "image/width", "image/class/synset"}
        assert {name: one[name] for name in same} == {name: other[name] for name in same}


def test_tables_and_chart(photos, tmp_path, monkeypatch):
    contenders = image_preparation.compare(photos, rounds=1, images=2)
    assert [row["contender"] for row in contenders] == [
        image_preparation.FULL_DECODE,
        image_preparation.OURS,
        image_preparation.RESIZED,
    ]
    assert contenders[0]["times_full_decode"] == 1.0
    assert all(row["cpu_ms_per_image_median"] > 0 for row in contenders)
    monkeypatch.setattr(image_preparation, "_run", lambda *task: (100.0 * task[-1], 0.5))
    scaling = image_preparation.scale(photos, rounds=1, images=800)
    assert [(row["processes"], row["images_per_round"]) for row in scaling] == [(1, 800), (2, 800)]
    assert [row["times_one_process"] for row in scaling] == [1.0, 2.0]
    tables.write(contenders, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    image_preparation.chart(contenders, scaling, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

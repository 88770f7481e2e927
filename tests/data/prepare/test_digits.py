import dataclasses
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data.prepare import digits
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError

# Positions of the first validation images, as first published.
FIRST_VALIDATION = [8, 9, 39, 46, 47, 49, 50, 51]

datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    digits.prepare(folder)
    return folder


def examples(data_dir, split):
    """Yields index, label and pixels of every example of a split."""
    shards = sorted(str(path) for path in data_dir.glob(f"{split}-*"))
    for record in tf.data.TFRecordDataset(shards):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        (name,) = feature["image/filename"].bytes_list.value
        (label,) = feature["image/class/label"].int64_list.value
        (encoded,) = feature["image/encoded"].bytes_list.value
        pixels = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy()
        yield int(name[:4]), label, pixels


def test_every_digit_is_in_one_split_with_its_label_and_its_pixels(data_dir):
    original = datasets.load_digits()
    train, validation = (list(examples(data_dir, split)) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (1437, 360)
    assert sorted(index for index, _, _ in train + validation) == list(range(1797))
    for index, label, pixels in train + validation:
        assert label == original.target[index] + 1
        assert pixels.shape == (8, 8, 1)
        # 255/16 is one step of the original: every value differs from its neighbours.
        assert np.abs(pixels[..., 0] - original.images[index] * 255 / 16).max() < 255 / 32


def test_the_data_set_names_ten_classes(data_dir):
    info = digits.prepare(data_dir)
    assert info.name == "digits"
    assert info.class_names == tuple("0123456789")
    assert info.splits["train"].num_examples == 1437
    assert info.splits["validation"].num_examples == 360


def test_the_split_is_stratified_and_the_same_everywhere():
    labels = datasets.load_digits().target
    mask = digits.validation_mask(labels)
    assert mask.sum() == digits.NUM_VALIDATION
    assert (~mask).sum() == digits.NUM_TRAIN
    assert np.abs(np.bincount(labels[mask]) - np.bincount(labels) * 360 / 1797).max() < 1
    assert np.flatnonzero(mask)[:8].tolist() == FIRST_VALIDATION


def test_a_finished_folder_is_found_without_scikit_learn(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    before = {path.name: path.stat().st_mtime_ns for path in data_dir.iterdir()}
    digits.prepare(data_dir)
    assert {path.name: path.stat().st_mtime_ns for path in data_dir.iterdir()} == before


def test_without_scikit_learn_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"extra `demo`: pip install -e '\.\[demo\]'"):
        digits.prepare(tmp_path)


def test_a_folder_with_another_data_set_is_refused(data_dir, tmp_path):
    dataclasses.replace(DatasetInfo.load(data_dir), name="letters").save(tmp_path)
    with pytest.raises(InputError, match="with the data set 'letters'"):
        digits.prepare(tmp_path)

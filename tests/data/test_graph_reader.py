"""Reading records with TensorFlow's operations alone, here on this process's own host."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.image_files import colours, encoded
from tf_lars.data import graph_reader, pipeline_host
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.input_errors import told_by_input
from tf_lars.data.records.dataset_info import SPLITS, DatasetInfo, ShardInfo, SplitInfo
from tf_lars.data.records.example_reader import open_split
from tf_lars.data.records.tfrecord import write_shard
from tf_lars.errors import InputError
from tf_lars.files import hash_file

EXAMPLES = 150
FORMS = [("standard", 1), ("tfds", 0)]
CONTEXT = tf.distribute.InputContext()
SHARD = "train-00001-of-00003"


def _example(seed, form, label_base):
    image = encoded(colours(24 + seed % 9, 20 + seed % 7), "JPEG")
    names = ("image", "label") if form == "tfds" else ("image/encoded", "image/class/label")
    value = {
        names[0]: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        names[1]: tf.train.Feature(int64_list=tf.train.Int64List(value=[seed % 3 + label_base])),
    }
    return tf.train.Example(features=tf.train.Features(feature=value)).SerializeToString()


def _write(folder, form="standard", label_base=1, classes=3):
    """Writes a data set of three shards of different lengths for each split."""
    splits = {}
    for name in SPLITS:
        examples = [_example(seed, form, label_base) for seed in range(EXAMPLES)]
        parts = examples[:20], examples[20:97], examples[97:]
        splits[name] = SplitInfo(
            tuple(
                write_shard(folder / f"{name}-{i:05d}-of-00003", part)
                for i, part in enumerate(parts)
            )
        )
    names = tuple(f"class{i}" for i in range(classes))
    DatasetInfo("shapes", names, names, splits, form=form, label_base=label_base).save(folder)
    return str(folder)


@pytest.fixture
def is_remote(monkeypatch):
    """Pipelines are made as for another host."""
    monkeypatch.setattr(pipeline_host, "is_remote", lambda: True)


@pytest.mark.parametrize(("form", "label_base"), FORMS)
def test_it_reads_what_the_reader_in_python_reads(tmp_path, form, label_base):
    data_dir = _write(tmp_path, form, label_base)
    index = np.random.default_rng(0).integers(0, EXAMPLES, 64)
    files, labels, _ = open_split(data_dir, "train").read(index)
    read, classes, own = tf.function(graph_reader.open_split(data_dir, "train"))(index)
    assert list(read.numpy()) == files
    np.testing.assert_array_equal(classes, np.array(labels) - label_base)
    assert classes.dtype == tf.int32
    assert own.numpy().all()


def test_batches_are_equal_to_the_bit(tmp_path, monkeypatch):
    data_dir = _write(tmp_path)
    training, evaluation = TrainingInput(data_dir, 32, 16), EvaluationInput(data_dir, 32, 16)

    def batches():
        datasets = training.dataset(CONTEXT, 2, 20), evaluation.dataset(CONTEXT)
        return [batch for one in datasets for batch in one.as_numpy_iterator()]

    expected = batches()
    monkeypatch.setattr(pipeline_host, "is_remote", lambda: True)
    for one, other in zip(expected, batches(), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def _flip(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_flip, r"must match its checksum\. Received: a corrupted record at \d+ bytes"),
        (lambda shard: shard.unlink(), rf"same path\. Received: a host without \S+/{SHARD}\."),
    ],
)
def test_a_file_that_a_host_cannot_read_ends_with_one_sentence(tmp_path, is_remote, harm, message):
    data_dir = _write(tmp_path)
    dataset = TrainingInput(data_dir, EXAMPLES, 16).dataset(CONTEXT, 0, 1)
    harm(tmp_path / SHARD)
    with pytest.raises(InputError, match=message), told_by_input():
        next(iter(dataset))


def test_a_label_out_of_range_ends_with_one_sentence(tmp_path, is_remote):
    dataset = EvaluationInput(_write(tmp_path, classes=2), EXAMPLES, 16).dataset(CONTEXT)
    with (
        pytest.raises(InputError, match=r"Every label must be from 1 to 2\. Received: \[?3 3"),
        told_by_input(),
    ):
        next(iter(dataset))


def test_compressed_shards_are_refused(tmp_path, is_remote):
    data_dir = _write(tmp_path)
    info = DatasetInfo.load(data_dir)
    shard = tmp_path / SHARD
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    shards = [
        ShardInfo(one.name, one.num_examples, *hash_file(str(shard))) if one.name == SHARD else one
        for one in info.splits["train"].shards
    ]
    splits = {**info.splits, "train": SplitInfo(tuple(shards))}
    DatasetInfo("shapes", info.class_names, info.synsets, splits).save(data_dir)
    with pytest.raises(InputError, match=rf"not compressed\. Received: \S+/{SHARD}\."):
        TrainingInput(data_dir, 32, 16).dataset(CONTEXT, 0, 1)

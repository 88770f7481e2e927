"""Random access to records, also of damaged shards."""

import os
import resource

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data.records.example import BadRecord
from tf_lars.data.records.tfrecord import RecordReader, masked_crc32c
from tf_lars.errors import InputError


@pytest.fixture
def shards(tmp_path):
    records = [bytes([i]) * (10 * i + 1) for i in range(12)]
    paths = [str(tmp_path / f"shard-{i}") for i in range(3)]
    for i, path in enumerate(paths):
        _write(path, records[4 * i : 4 * i + 4])
    return paths, records


def _write(path, records):
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


def _damage(path, position, data=None):
    with open(path, "r+b") as file:
        if data is None:
            file.truncate(position)
        else:
            file.seek(position)
            file.write(data)


def test_records_come_by_number_in_any_order(shards):
    paths, records = shards
    reader = RecordReader(paths, [4, 4, 4])
    for i in np.random.default_rng(0).permutation(12):
        assert reader.read(int(i)) == records[i]
    assert len(reader) == 12


def test_the_checksum_is_that_of_tensorflow(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "one")) as writer:
        writer.write(b"data")
    framed = (tmp_path / "one").read_bytes()
    assert int.from_bytes(framed[-4:], "little") == masked_crc32c(b"data")


def test_a_flipped_byte_is_found_and_named_and_the_other_records_stay_readable(shards):
    paths, records = shards
    _damage(paths[1], 12 + 41 + 4 + 12 + 5, b"\xff")  # inside record 1 of the second shard
    reader = RecordReader(paths, [4, 4, 4])
    with pytest.raises(BadRecord, match="does not match its checksum"):
        reader.read(5)
    assert reader.place(5) == f"record 1 (from 0) of {paths[1]}"
    for i in (0, 4, 6, 11):
        assert reader.read(i) == records[i]


@pytest.mark.parametrize("cut", [1, 5, 13, 30, 70])
def test_a_shard_that_is_cut_short_is_found_when_it_is_opened(shards, cut):
    paths, _ = shards
    size = os.path.getsize(paths[2])
    _damage(paths[2], size - cut)
    with pytest.raises(InputError, match="shard-2"):
        RecordReader(paths, [4, 4, 4])


def test_a_shard_with_another_number_of_records_is_refused(shards):
    paths, _ = shards
    with pytest.raises(InputError, match="4 records instead of 5"):
        RecordReader(paths, [4, 5, 4])


def test_a_file_that_is_no_tfrecord_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"not a TFRecord file at all")
    with pytest.raises(InputError, match="complete TFRecord file"):
        RecordReader([str(path)], [1])


def test_more_shards_than_a_process_may_usually_open_are_read(tmp_path):
    """As ImageNet's 1,152 are, where the usual limit is 1,024."""
    paths = [str(tmp_path / f"shard-{i}") for i in range(100)]
    for path in paths:
        _write(path, [path.encode()])
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, usual[1]))
    try:
        reader = RecordReader(paths, [1] * len(paths))
        assert [reader.read(i) for i in range(100)] == [path.encode() for path in paths]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)

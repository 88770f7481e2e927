"""Every program names the damaged record, by its file and its position from 0."""

import gzip
import re
import zlib

import pytest
import tensorflow as tf

from tests.data.prepare.test_preparation import run_here
from tests.data.records.test_faults import CLASSES, _epoch, _example
from tf_lars.data.image_input import TrainingInput
from tf_lars.data.prepare import describe as describe_module
from tf_lars.data.prepare import verify
from tf_lars.data.prepare.describe import describe
from tf_lars.data.records.dataset_info import SPLITS, DatasetInfo, SplitInfo
from tf_lars.data.records.example import BadRecord
from tf_lars.data.records.example_reader import open_split
from tf_lars.data.records.tfrecord import ShardFile, write_shard
from tf_lars.errors import InputError

EXAMPLES = 4
# Position of the flipped byte, from the start of the record's frame; negative from its end.
PARTS = {
    "length": 1,
    "high byte of the length": 7,
    "length's checksum": 9,
    "data": 60,
    "footer": -2,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(describe_module, "run_tasks", run_here)
    splits = {}
    for split in SPLITS:
        shard = write_shard(tmp_path / f"{split}-00000-of-00001", map(_example, range(EXAMPLES)))
        splits[split] = SplitInfo((shard,))
    names = tuple(f"class{i}" for i in range(CLASSES))
    DatasetInfo("whole", names, names, splits).save(tmp_path)
    return tmp_path


def _starts(data):
    """Returns the start of each record and the end of the last."""
    starts = [0]
    for _ in range(EXAMPLES):
        starts.append(starts[-1] + 16 + int.from_bytes(data[starts[-1] : starts[-1] + 8], "little"))
    return starts


def _flip(path, number, offset):
    data = bytearray(path.read_bytes())
    starts = _starts(data)
    data[starts[number] + offset if offset > 0 else starts[number + 1] + offset] ^= 0x55
    path.write_bytes(data)


def _read(path):
    shard = ShardFile(str(path)).open()
    for number in range(len(shard)):
        try:
            shard.read(number)
        except BadRecord as error:
            raise InputError(f"{error}, in {shard.place(number)}") from error


def _train(folder):
    open_split.cache_clear()
    try:
        _epoch(TrainingInput(str(folder), EXAMPLES, 16))
    except tf.errors.OpError as error:
        raise InputError(re.search("InputError: (.*)", error.message)[1]) from error


@pytest.mark.parametrize("number", [0, 1, EXAMPLES - 1])
@pytest.mark.parametrize("part", PARTS)
def test_the_record_with_a_flipped_byte_is_named_by_all(folder, part, number):
    path = folder / "train-00000-of-00001"
    _flip(path, number, PARTS[part])
    told = rf"record {number} \(from 0\)|record {number}, from 0"
    for program in (lambda: _read(path), lambda: _train(folder), lambda: verify.verify(folder)):
        with pytest.raises(InputError, match=told) as error:
            program()
        assert path.name in str(error.value)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=told) as error:
        describe(str(folder))
    assert path.name in str(error.value)


@pytest.mark.parametrize("cut", [1, 5, 13, 300])
def test_the_record_in_which_a_shard_ends_is_named(folder, cut):
    path = folder / "train-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=rf"cut short or damaged at its record {EXAMPLES - 1} "):
        _read(path)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_in_a_compressed_shard_too(folder, compress):
    path = folder / "train-00000-of-00001"
    plain = path.read_bytes()
    whole = compress(plain)
    for number in (0, 1, EXAMPLES - 1):
        path.write_bytes(plain)
        _flip(path, number, PARTS["data"])
        path.write_bytes(compress(path.read_bytes()))
        with pytest.raises(InputError, match=rf"record {number} \(from 0\)"):
            _read(path)
    for place in range(30, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"record \d \(from 0\)"):
            _read(path)
        path.write_bytes(whole[:place])
        before_the_cut = len(zlib.decompressobj(47).decompress(whole[:place]))
        named = sum(end <= before_the_cut for end in _starts(plain)[1:])
        with pytest.raises(InputError, match=rf"cut short or damaged at its record {named} "):
            _read(path)

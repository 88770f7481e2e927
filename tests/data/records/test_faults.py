"""Records that training cannot use: found, reported, and counted if some are allowed."""

import contextlib
import io
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from PIL import Image

from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.records.dataset_info import SPLITS, DatasetInfo, SplitInfo
from tf_lars.data.records.example import BadRecord, example_bytes
from tf_lars.data.records.example_reader import open_split
from tf_lars.data.records.stall_watch import StallWatch
from tf_lars.data.records.tfrecord import RecordReader, write_shard
from tf_lars.errors import InputError
from tf_lars.tracking.bad_records import BadRecordCount

CLASSES, EXAMPLES, BAD = 3, 12, 7


def _image(seed, kind="JPEG", mode="RGB"):
    colours = np.random.default_rng(seed).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).convert(mode).save(file, kind)
    return file.getvalue()


def _example(seed, encoded=None, label=None):
    return example_bytes(
        encoded=_image(seed) if encoded is None else encoded,
        label=seed % CLASSES + 1 if label is None else label,
        synset="",
        text="",
        filename="",
        height=20,
        width=24,
        channels=3,
    )


def _half(seed):
    whole = _image(seed)
    return whole[: len(whole) // 2]


def _with_thumbnail(seed):
    """Returns a truncated photo with an intact embedded thumbnail, as cameras write it."""
    whole = _image(seed)
    thumbnail = b"Exif\0\0" + _image(99)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return whole[:2] + segment + whole[2 : len(whole) // 2]


BAD_RECORDS = {
    "label 4": ("label 4, not from 1 to 3", lambda: _example(BAD, label=4)),
    "no example": ("not a tf.train.Example", lambda: b"\xff\xff\xff\xff"),
    "no image": (
        "not exactly one image/encoded",
        lambda: tf.train.Example().SerializeToString(),
    ),
    "empty image": ("an empty image", lambda: _example(BAD, encoded=b"")),
    "random bytes": ("not a JPEG", lambda: _example(BAD, np.random.default_rng(0).bytes(500))),
    "PNG": ("not a JPEG", lambda: _example(BAD, _image(BAD, "PNG"))),
    "GIF": ("not a JPEG", lambda: _example(BAD, _image(BAD, "GIF"))),
    "BMP": ("not a JPEG", lambda: _example(BAD, _image(BAD, "BMP"))),
    "WebP": ("not a JPEG", lambda: _example(BAD, _image(BAD, "WEBP"))),
    "CMYK": ("a JPEG of 4 channels", lambda: _example(BAD, _image(BAD, mode="CMYK"))),
    "half a JPEG": ("cut short", lambda: _example(BAD, _half(BAD))),
    "thumbnail": ("cut short", lambda: _example(BAD, _with_thumbnail(BAD))),
}


def _write(folder, bad_record=None, split="train"):
    """Writes a data set; in one split, `bad_record` replaces record `BAD`."""
    folder.mkdir(exist_ok=True)
    splits = {}
    for name in SPLITS:
        examples = [_example(seed) for seed in range(EXAMPLES)]
        if bad_record is not None and name == split:
            examples[BAD] = bad_record
        halves = examples[: EXAMPLES // 2], examples[EXAMPLES // 2 :]
        splits[name] = SplitInfo(
            tuple(
                write_shard(folder / f"{name}-{i:05d}-of-00002", half)
                for i, half in enumerate(halves)
            )
        )
    names = tuple(f"class{i}" for i in range(CLASSES))
    DatasetInfo("faulty", names, names, splits).save(folder)
    return str(folder)


def _epoch(data):
    context = tf.distribute.InputContext(1, 0, 1)
    if isinstance(data, EvaluationInput):
        return list(data.dataset(context).as_numpy_iterator())
    return list(data.dataset(context, 0, EXAMPLES // data.global_batch_size).as_numpy_iterator())


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_bad_record_is_named_with_its_file_place_and_fault(kind, tmp_path):
    fault, make = BAD_RECORDS[kind]
    data = TrainingInput(_write(tmp_path / "data", make()), EXAMPLES, 16)
    with pytest.raises(tf.errors.OpError, match=rf"{fault}.*record 1 \(from 0\).*00001-of-00002"):
        _epoch(data)


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_within_the_budget_the_next_good_record_comes_in_its_place(kind, tmp_path):
    data_dir = _write(tmp_path / "data", BAD_RECORDS[kind][1]())
    good_dir = _write(tmp_path / "good", _example(BAD + 1))
    data = TrainingInput(data_dir, EXAMPLES, 16, max_bad_records=1)
    for one, other in zip(_epoch(data), _epoch(TrainingInput(good_dir, EXAMPLES, 16)), strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])
    assert set(open_split(data_dir, "train", 1).bad) == {BAD}


def test_evaluation_leaves_it_out(tmp_path):
    data_dir = _write(tmp_path / "data", BAD_RECORDS["PNG"][1](), "validation")
    (batch,) = _epoch(EvaluationInput(data_dir, EXAMPLES, 16, max_bad_records=1))
    assert list(np.flatnonzero(batch["weight"] == 0)) == [BAD]
    with pytest.raises(tf.errors.OpError, match="not a JPEG"):
        _epoch(EvaluationInput(data_dir, EXAMPLES, 16))


def test_each_is_logged_once_with_its_place(tmp_path, caplog):
    logging.use_absl_handler()
    data_dir = _write(tmp_path / "data", BAD_RECORDS["PNG"][1]())
    data = TrainingInput(data_dir, EXAMPLES, 16, max_bad_records=1)
    with caplog.at_level("WARNING", "absl"):
        _epoch(data)
        _epoch(data)
    (message,) = [r.message for r in caplog.records if "bad record" in r.message]
    assert "not a JPEG, in record 1 (from 0) of" in message


def test_a_flipped_byte_in_a_record_is_found(tmp_path):
    data_dir = _write(tmp_path / "data")
    shard = tmp_path / "data" / "train-00001-of-00002"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=r"checksum.*train-00001-of-00002"):
        _epoch(TrainingInput(data_dir, EXAMPLES, 16))
    _epoch(TrainingInput(data_dir, EXAMPLES, 16, max_bad_records=1))


def test_two_workers_count_a_record_once_whatever_the_budget(tmp_path, mirrored):
    data_dir = _write(tmp_path / "data", BAD_RECORDS["PNG"][1]())
    reader = open_split(data_dir, "train", 2)
    reader.read(range(EXAMPLES))
    logs = {}
    for most in (2, 10**11):
        BadRecordCount({"train": reader}, mirrored, most).on_epoch_end(0, logs)
        assert logs == {"bad_records": 1}
    good = open_split(data_dir, "validation", 2)
    BadRecordCount({"validation": good}, mirrored, 2).on_epoch_end(0, logs)
    assert logs == {"bad_records": 0}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda shard: shard.unlink(), "without train-00001-of-00002"),
        (lambda shard: shard.write_bytes(b""), "of 0 bytes instead of"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-9]), "bytes instead of"),
        (lambda shard: shutil.move(shard, shard.with_suffix(".bak")), "without train-00001"),
    ],
)
def test_a_damaged_set_is_refused_when_it_is_opened(harm, message, tmp_path):
    data_dir = _write(tmp_path / "data")
    harm(tmp_path / "data" / "train-00001-of-00002")
    with pytest.raises(InputError, match=message):
        open_split(data_dir, "train")


def test_a_set_without_examples_is_refused(tmp_path):
    _write(tmp_path / "data")
    info = DatasetInfo.load(tmp_path / "data")
    empty = SplitInfo((write_shard(tmp_path / "data" / "train-00000-of-00001", []),))
    DatasetInfo("empty", info.class_names, info.synsets, {**info.splits, "train": empty}).save(
        tmp_path / "data"
    )
    with pytest.raises(InputError, match="no train examples"):
        open_split(str(tmp_path / "data"), "train")


def test_a_read_that_hangs_is_named_and_then_ended(tmp_path, monkeypatch, caplog, capfd):
    """A read that waits stands for storage that does not answer."""
    released, ended = threading.Event(), threading.Event()
    monkeypatch.setattr("os._exit", lambda code: (ended.set(), threading.Event().wait()))
    monkeypatch.setattr("tf_lars.data.records.tfrecord.STALL_WATCH", StallWatch(0.05, 2.0))
    write_shard(tmp_path / "shard", [b"record"])
    reader = RecordReader([str(tmp_path / "shard")], [1])
    monkeypatch.setattr("os.pread", lambda *_: (released.wait(60), b"")[1])

    def read():
        with contextlib.suppress(BadRecord):  # the read finally returns nothing
            reader.read(0)

    logging.use_absl_handler()
    with caplog.at_level("WARNING", "absl"):
        stuck = threading.Thread(target=read)
        stuck.start()
        assert ended.wait(60)
    released.set()
    stuck.join()
    warnings = [r.message for r in caplog.records if "No data for" in r.message]
    assert len(warnings) >= 2
    assert all(str(tmp_path / "shard") in warning for warning in warnings)
    assert str(tmp_path / "shard") in capfd.readouterr().err

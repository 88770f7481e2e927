"""Shards of many programs: their names, label files, compression and features."""

import gzip
import io
import json
import os
import zlib

import pytest
import tensorflow as tf
from PIL import Image

from tests.data.prepare.test_preparation import run_here
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.prepare import describe as describe_module
from tf_lars.data.prepare import verify
from tf_lars.data.prepare.describe import describe, is_undescribed
from tf_lars.data.records.dataset_info import SPLITS
from tf_lars.data.records.example_reader import open_split
from tf_lars.errors import InputError

EXAMPLES = 6
SPELT = {"standard": ("image/encoded", "image/class/label"), "tfds": ("image", "label")}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(describe_module, "run_tasks", run_here)


def _image(label):
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (20 * label, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def _record(label, form):
    image_name, label_name = SPELT[form]
    example = tf.train.Example()
    example.features.feature[image_name].bytes_list.value.append(_image(label))
    example.features.feature[label_name].int64_list.value.append(label)
    return example.SerializeToString()


def _write(path, labels, form="tfds", compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = str(path.parent / "temporary")  # TensorFlow writes names in UTF-8 only
    with tf.io.TFRecordWriter(temporary, compression) as writer:
        for label in labels:
            writer.write(_record(label, form))
    os.rename(temporary, path)


def _write_both(folder, name="flowers-{split}.tfrecord-00000-of-00001", labels=range(3), **options):
    for split in SPLITS:
        _write(folder / name.format(split=split), labels, **options)
    return str(folder)


# The split of each name below, whose folder is "" unless it is given; one file per split.
NAMES = {
    "{split}-00000-of-00001": SPLITS,
    "{split}-00000-of-00001.tfrecord": SPLITS,
    "flowers-{split}.tfrecord-00000-of-00001": SPLITS,
    "val_data-{split}.tfrecord-00000-of-00001": SPLITS,
    "{split}.tfrecord": SPLITS,
    "{split}.tfrecords": ("training", "valid"),
    "{split}_00.tfrecord": ("train", "val"),
    "{split}00-2071.tfrec": ("Train", "Val"),
    "flowers_{split}_00.TFRecord": ("TRAIN", "EVAL"),
    "{split}/part-00.tfrecord": ("train", "val"),
    "{split}/00000-of-00001.tfrecord": ("training", "validation"),
    "{split}/{split}-00000-of-00001.gz": ("train", "eval"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_split_of_a_shard_is_in_its_name_or_its_folder(name, tmp_path):
    for split, labels in zip(NAMES[name], ([0, 1], [1]), strict=True):
        _write(tmp_path / name.format(split=split), labels)
    _write(tmp_path / "flowers-test.tfrecord-00000-of-00001", [7])
    (tmp_path / "features.json").write_text("{}")
    assert is_undescribed(str(tmp_path))
    info = describe(str(tmp_path))
    assert [info.splits[split].num_examples for split in SPLITS] == [2, 1]
    verify.verify(tmp_path)


def test_several_shards_without_a_number_of_shards_are_all_read(tmp_path):
    for number in range(3):
        _write(tmp_path / f"train_{number:02}.tfrecord", [0, 1])
    _write(tmp_path / "validation.tfrecord", [0])
    assert describe(str(tmp_path)).splits["train"].num_examples == 6


UNFIT = {
    "no split": (["part-00000-of-00001"], "train shards.*with only part-00000-of-00001"),
    "no validation": (
        ["a-train.tfrecord-00000-of-00001", "a-test.tfrecord-00000-of-00001"],
        "must hold validation shards.* with only a-test",
    ),
    "two splits": (["train/val-00000-of-00001"], "belongs to one split.*train and validation"),
    "two words": (["train_val.tfrecord"], "belongs to one split"),
    "two data sets": (["train.tfrecord", "train-00000-of-00001"], "of one data set.*several"),
    "two numbers": (
        ["train-00000-of-00001", "train-00000-of-00001.gz"],
        "exist, once.*with 2 instead of 1",
    ),
    "a number too high": (["train-00000-of-00001", "train-00001-of-00001"], "with 2 instead of 1"),
    "an absurd number": (["train-00000-of-999999999"], "without number 1 of the 999999999"),
    "a line break": (["train\n.tfrecord"], "must be printable"),
    "no UTF-8": (["train\udcff.tfrecord"], "must be printable"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_names_that_do_not_fit_are_refused_in_one_sentence(kind, tmp_path):
    names, message = UNFIT[kind]
    for name in names:
        _write(tmp_path / name, [0])
    assert is_undescribed(str(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        describe(str(tmp_path))
    assert "Received:" in str(error.value)


def test_shards_without_records_are_refused_and_one_among_others_is_read(tmp_path):
    folder = _write_both(tmp_path, "{split}-00000-of-00002")
    (tmp_path / "train-00001-of-00002").touch()
    (tmp_path / "validation-00001-of-00002").touch()
    assert describe(folder).splits["train"].num_examples == 3
    assert len(open_split(folder, "train")) == 3
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "train-00000-of-00002").write_bytes(b"")
    with pytest.raises(InputError, match=r"must hold records.* 2 train shards hold none"):
        describe(folder)


def test_records_without_the_features_are_refused_by_name(tmp_path):
    folder = _write_both(tmp_path)
    _write(tmp_path / "flowers-train.tfrecord-00000-of-00001", [0], form="standard")
    with pytest.raises(InputError, match=r"same features.*standard in .*train.*tfds in .*valid"):
        describe(folder)
    with tf.io.TFRecordWriter(str(tmp_path / "flowers-train.tfrecord-00000-of-00001")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(InputError, match="exactly one image/encoded, not exactly one image, in"):
        describe(folder)


def test_the_features_tell_the_format_whatever_the_names(tmp_path):
    folder = _write_both(tmp_path, "{split}-00000-of-00001.tfrecord", [1, 2], form="standard")
    assert (describe(folder).form, describe(folder).label_base) == ("standard", 1)


def test_a_label_that_damage_made_absurd_takes_no_memory(tmp_path):
    folder = _write_both(tmp_path, labels=[0])
    name = SPELT["tfds"][1]
    example = tf.train.Example.FromString(_record(0, "tfds"))
    example.features.feature[name].int64_list.value[:] = [10**12]
    with tf.io.TFRecordWriter(str(tmp_path / "flowers-train.tfrecord-00000-of-00001")) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(InputError, match="labels from 0 to 1000000000000"):
        describe(folder)


LABEL_FILES = {
    "lines": b"pink primrose\nhard-leaved pocket orchid\nsword lily\n",
    "no newline at the end": b"pink primrose\nhard-leaved pocket orchid\nsword lily",
    "empty lines at the end": b"pink primrose\nhard-leaved pocket orchid\nsword lily\n\n\n",
    "CRLF": b"pink primrose\r\nhard-leaved pocket orchid\r\nsword lily\r\n",
    "BOM": b"\xef\xbb\xbfpink primrose\nhard-leaved pocket orchid\nsword lily\n",
    "spaces around": b" pink primrose\nhard-leaved pocket orchid\t\nsword lily \n",
}


@pytest.mark.parametrize("kind", LABEL_FILES)
def test_a_line_of_the_label_file_is_one_name(kind, tmp_path):
    folder = _write_both(tmp_path)
    (tmp_path / "label.labels.txt").write_bytes(LABEL_FILES[kind])
    names = ("pink primrose", "hard-leaved pocket orchid", "sword lily")
    assert describe(folder).class_names == names


BAD_LABEL_FILES = {
    "an empty line": (b"a\n\nb\n", "one name per line.*line 2, which is empty"),
    "empty": (b"", "line 1, which is empty"),
    "a name twice": (b"a b\nc\na b\n", "each once.*'a b' in lines 1 and 3"),
    "not UTF-8": (b"a\n\xff\nb\n", "must be UTF-8"),
    "too few": (b"a\nb\n", "from 0 to 1, for 2 classes.*labels from 0 to 2"),
    "too many": (b"a\nb\nc\nd\n", "names 4, without 1 of those.*the first 3"),
    "a folder": (None, "must be readable"),
}


@pytest.mark.parametrize("kind", BAD_LABEL_FILES)
def test_a_label_file_that_does_not_name_the_classes_is_refused(kind, tmp_path):
    content, message = BAD_LABEL_FILES[kind]
    folder = _write_both(tmp_path)
    if content is None:
        (tmp_path / "label.labels.txt").mkdir()
    else:
        (tmp_path / "label.labels.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        describe(folder)
    assert "Received:" in str(error.value)
    assert not (tmp_path / "dataset.json").exists()


def test_a_given_number_of_classes_must_be_that_of_the_names(tmp_path):
    folder = _write_both(tmp_path)
    (tmp_path / "label.labels.txt").write_bytes(b"a\nb\nc\nd\n")
    assert describe(folder, num_classes=4).class_names == ("a", "b", "c", "d")
    with pytest.raises(InputError, match=r"4 names .* for num_classes=5"):
        describe(folder, num_classes=5)


def test_compressed_shards_train_evaluate_and_verify_as_plain_ones(tmp_path, monkeypatch):
    """Of one member, of several, and one of each compression."""
    labels = [i % 3 for i in range(EXAMPLES)]
    plain = _write_both(tmp_path / "plain", labels=labels)
    context = tf.distribute.InputContext(1, 0, 1)

    def batches(folder):
        training = TrainingInput(folder, EXAMPLES, 16).dataset(context, 0, 2)
        evaluation = EvaluationInput(folder, EXAMPLES, 16).dataset(context)
        return [*training.as_numpy_iterator(), *evaluation.as_numpy_iterator()]

    describe(plain)
    expected = batches(plain)
    for compression in ("GZIP", "ZLIB", "members"):
        folder = _write_both(tmp_path / compression, labels=labels)
        for path in (tmp_path / compression).iterdir():
            data = path.read_bytes()
            if compression == "members":
                path.write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]) + bytes(9))
            else:
                _write(path, labels, compression=compression)
                wbits = 15 if compression == "ZLIB" else 31
                assert zlib.decompress(path.read_bytes(), wbits) == data
        describe(folder)
        assert verify.verify(folder).splits["train"].num_examples == EXAMPLES
        for one, other in zip(expected, batches(folder), strict=True):
            for name, value in one.items():
                assert (value == other[name]).all()


def test_a_compressed_shard_of_another_count_is_named_when_it_is_read(tmp_path):
    folder = _write_both(tmp_path, compression="GZIP")
    describe(folder)
    content = json.loads((tmp_path / "dataset.json").read_text())
    del content["checksum"]
    content["splits"]["train"]["shards"][0]["num_examples"] = 4
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="3 records instead of 4"):
        open_split(folder, "train").read([0])
    with pytest.raises(InputError, match="with 3 instead of 4"):
        verify.verify(folder)


def test_a_compressed_shard_beyond_the_space_for_copies_is_refused(tmp_path, monkeypatch):
    folder = _write_both(tmp_path, compression="GZIP")
    monkeypatch.setattr("tf_lars.data.records.shard_copy.SHARE_OF_SPACE", 1e-12)
    with pytest.raises(InputError, match=r"temporary copy .* free space.*Set TMPDIR"):
        describe(folder)

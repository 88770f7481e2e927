import dataclasses
import hashlib
import io
import json
import shutil

import pytest
import tensorflow as tf
from PIL import Image

from tf_lars.data.prepare import verify
from tf_lars.data.records.dataset_info import SPLITS, DatasetInfo, ShardInfo, SplitInfo
from tf_lars.data.records.example import example_bytes
from tf_lars.data.records.tfrecord import write_shard
from tf_lars.errors import InputError


def example(number=1, **changes):
    fields = {
        "encoded": b"image %d" % number,
        "label": number,
        "synset": "n01440764",
        "text": "tench",
        "filename": f"{number}.JPEG",
        "height": 20,
        "width": 30,
        "channels": 3,
    }
    return example_bytes(**{**fields, **changes})


def jpeg(number):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (60 * number, 0, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def data_dir(tmp_path):
    """A folder with two training shards and one validation shard."""
    folder = tmp_path / "data"
    folder.mkdir()
    shards = {
        name: write_shard(folder / name, [example(n, encoded=jpeg(n)) for n in range(1, count + 1)])
        for name, count in (
            ("train-00000-of-00002", 2),
            ("train-00001-of-00002", 1),
            ("validation-00000-of-00001", 3),
        )
    }
    splits = {
        split: SplitInfo(tuple(s for name, s in shards.items() if name.startswith(split)))
        for split in SPLITS
    }
    DatasetInfo("three", ("a", "b", "c"), ("n1", "n2", "n3"), splits, {"seed": 0}).save(folder)
    return folder


NAMES = (
    *("image/channels", "image/class/label", "image/class/synset", "image/class/text"),
    *("image/colorspace", "image/encoded", "image/filename", "image/format"),
    *("image/height", "image/width"),
)


def edit(data_dir, change):
    path = data_dir / "dataset.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_text(json.dumps(content))


def test_an_example_has_the_standard_imagenet_schema():
    features = tf.io.parse_single_example(
        example(7),
        {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/format": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
            "image/class/synset": tf.io.FixedLenFeature([], tf.string),
            "image/class/text": tf.io.FixedLenFeature([], tf.string),
            "image/filename": tf.io.FixedLenFeature([], tf.string),
            "image/height": tf.io.FixedLenFeature([], tf.int64),
            "image/width": tf.io.FixedLenFeature([], tf.int64),
            "image/colorspace": tf.io.FixedLenFeature([], tf.string),
            "image/channels": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    assert {name: value.numpy() for name, value in features.items()} == {
        "image/encoded": b"image 7",
        "image/format": b"JPEG",
        "image/class/label": 7,
        "image/class/synset": b"n01440764",
        "image/class/text": b"tench",
        "image/filename": b"7.JPEG",
        "image/height": 20,
        "image/width": 30,
        "image/colorspace": b"RGB",
        "image/channels": 3,
    }


def test_the_bytes_of_an_example_are_always_the_same():
    data = example(7)
    positions = [data.index(name.encode()) for name in NAMES]
    assert positions == sorted(positions)
    assert hashlib.sha256(data).hexdigest() == (
        "e30adb38a522eb473f04769c50a1c49be1e3bd653d741daaa88285be5d0cab83"
    )


def test_a_label_below_1_is_refused():
    with pytest.raises(InputError, match="count from 1"):
        example(label=0)


def test_a_shard_reads_back_and_its_info_is_of_its_bytes(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    examples = [example(n) for n in range(1, 6)]
    shard = write_shard(path, iter(examples))
    data = path.read_bytes()
    assert shard == ShardInfo(path.name, 5, len(data), hashlib.sha256(data).hexdigest())
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == examples


def test_a_shard_that_fails_half_way_leaves_nothing_under_its_name(tmp_path):
    def examples():
        yield example()
        raise LookupError

    path = tmp_path / "train-00000-of-00001"
    with pytest.raises(LookupError):
        write_shard(path, examples())
    assert not path.exists()
    write_shard(path, [example()])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="output folder must be writable"):
        write_shard(tmp_path / "missing" / "train-00000-of-00001", [example()])


def test_a_data_set_loads_as_it_was_saved(data_dir):
    info = DatasetInfo.load(data_dir)
    assert info.num_classes == 3
    assert info.class_names == ("a", "b", "c")
    assert info.synsets == ("n1", "n2", "n3")
    assert info.settings == {"seed": 0}
    assert info.splits["train"].num_examples == 3
    assert [shard.num_examples for shard in info.splits["train"].shards] == [2, 1]
    assert [shard.name for shard in info.splits["validation"].shards] == [
        "validation-00000-of-00001"
    ]
    assert verify.verify(data_dir) == info


def test_a_data_set_loads_from_a_remote_file_system(data_dir):
    remote = "ram://records_test"
    tf.io.gfile.makedirs(remote)
    for file in data_dir.iterdir():
        tf.io.gfile.copy(str(file), f"{remote}/{file.name}", overwrite=True)
    assert verify.verify(remote) == DatasetInfo.load(data_dir)
    examples = [example(n, encoded=jpeg(n)) for n in (1, 2)]
    shard = write_shard(f"{remote}/again", examples)
    assert shard.sha256 == DatasetInfo.load(data_dir).splits["train"].shards[0].sha256


def test_the_fingerprint_changes_with_the_bytes_of_a_shard_only(data_dir):
    info = DatasetInfo.load(data_dir)
    assert len(info.fingerprint) == 16
    assert dataclasses.replace(info, name="other").fingerprint == info.fingerprint
    (shard,) = info.splits["validation"].shards
    other = SplitInfo((dataclasses.replace(shard, sha256="0" * 64),))
    changed = dataclasses.replace(info, splits={**info.splits, "validation": other})
    assert changed.fingerprint != info.fingerprint


def no_examples(content):
    for shard in content["splits"]["validation"]["shards"]:
        shard["num_examples"] = 0


DAMAGE = {
    "folder missing": (shutil.rmtree, "must exist"),
    "folder empty": (lambda d: [file.unlink() for file in d.iterdir()], "holds nothing"),
    "no dataset.json": (lambda d: (d / "dataset.json").unlink(), "holds files but no dataset.json"),
    "not JSON": (lambda d: (d / "dataset.json").write_text("{"), "must be JSON"),
    "not text": (lambda d: (d / "dataset.json").write_bytes(b"\xff\xfe"), "must be JSON"),
    "a list": (lambda d: (d / "dataset.json").write_text("[]"), "version None"),
    "no version": (lambda d: edit(d, lambda c: c.pop("version")), "version None"),
    "later version": (lambda d: edit(d, lambda c: c.update(version=2)), "Received: version 2"),
    "no classes": (lambda d: edit(d, lambda c: c.pop("class_names")), "class_names is missing"),
    "no split": (lambda d: edit(d, lambda c: c["splits"].pop("train")), "not an object of train"),
    "no examples": (lambda d: edit(d, no_examples), "no validation examples"),
    "shard missing": (
        lambda d: (d / "train-00001-of-00002").unlink(),
        "without train-00001-of-00002",
    ),
    "shard cut": (
        lambda d: (d / "train-00000-of-00002").write_bytes(b"short"),
        "train-00000-of-00002 of 5 bytes instead of",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_data_set_is_refused_in_one_sentence(data_dir, kind):
    damage, message = DAMAGE[kind]
    damage(data_dir)
    with pytest.raises(InputError, match=message) as error:
        DatasetInfo.load(data_dir)
    assert "Received:" in str(error.value)
    assert str(data_dir) in str(error.value)


def test_verify_names_the_shard_in_which_a_bit_changed(data_dir):
    path = data_dir / "train-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    DatasetInfo.load(data_dir)
    with pytest.raises(
        InputError, match=r"1 of 3 .*: train-00001-of-00002 \(a record that.*record 0 "
    ):
        verify.verify(data_dir)

import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.paths import ROOT, SHARED
from tf_lars.data.prepare import preparation, verify
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError

PHOTOS = SHARED / "data/imagenet_photos.tar"
CLASSES = ("n01440764", "n02102040", "n03000684")


def picture(number, kind="JPEG", mode="RGB", **options):
    """Returns an image file with a different picture for every number."""
    y, x = np.mgrid[: 20 + number % 7, : 30 + number % 5]
    pixels = np.stack([x * 3 + number, y * 5, x + y * number % 40], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def write_images(folder):
    """Writes 12 training and 5 validation images in each of three classes."""
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(CLASSES):
            class_folder = folder / split / name
            class_folder.mkdir(parents=True)
            for number in range(count):
                mode = "L" if number == 3 else "RGB"
                data = picture(100 * label + number, mode=mode, progressive=number == 4)
                (class_folder / f"{name}_{split}{number:02d}.JPEG").write_bytes(data)


@pytest.fixture
def images(tmp_path):
    """An image folder that tests may change."""
    folder = tmp_path / "images"
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def same_images(tmp_path_factory):
    """An image folder that no test changes."""
    folder = tmp_path_factory.mktemp("input") / "flowers"
    write_images(folder)
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs tasks in this process: starting workers, which import TensorFlow, takes seconds."""
    monkeypatch.setattr(preparation, "run_tasks", run_here)


def run_here(function, tasks, num_processes, held_files=()):
    for task in tasks:
        yield function(task, lambda count: None)


def config(images, output_dir, **changes):
    settings = {"train_shards": 4, "validation_shards": 2, **changes}
    return PrepareConfig(str(images), str(output_dir), **settings)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(same_images, tmp_path_factory):
    """The output folder of an undisturbed run."""
    output_dir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "run_tasks", run_here)
        prepare_images(config(same_images, output_dir))
    return output_dir


def examples(folder, split):
    for path in sorted(folder.glob(f"{split}-*")):
        for record in tf.data.TFRecordDataset(str(path)):
            yield tf.train.Example.FromString(record.numpy()).features.feature


def bytes_of(feature, name):
    return feature[name].bytes_list.value[0]


def int_of(feature, name):
    return feature[name].int64_list.value[0]


@pytest.mark.parametrize(
    ("split", "folder", "count"), [("train", "train", 36), ("validation", "val", 15)]
)
def test_jpeg_files_go_in_byte_for_byte_with_their_labels_and_sizes(
    same_images, undisturbed, split, folder, count
):
    seen = set()
    for feature in examples(undisturbed, split):
        name = bytes_of(feature, "image/filename").decode()
        synset = bytes_of(feature, "image/class/synset").decode()
        data = (same_images / folder / synset / name).read_bytes()
        assert bytes_of(feature, "image/encoded") == data
        assert int_of(feature, "image/class/label") == CLASSES.index(synset) + 1
        assert bytes_of(feature, "image/class/text").decode() == synset
        image = Image.open(io.BytesIO(data))
        assert (int_of(feature, "image/width"), int_of(feature, "image/height")) == image.size
        assert int_of(feature, "image/channels") == len(image.getbands())
        seen.add(name)
    assert len(seen) == count


def test_the_data_set_describes_itself(undisturbed):
    info = DatasetInfo.load(undisturbed)
    assert info.name == "flowers"
    assert info.class_names == info.synsets == CLASSES
    assert [shard.num_examples for shard in info.splits["train"].shards] == [9] * 4
    assert [shard.num_examples for shard in info.splits["validation"].shards] == [8, 7]
    assert verify.verify(undisturbed) == info
    names = {shard.name for split in info.splits.values() for shard in split.shards}
    assert set(contents(undisturbed)) == names | {"dataset.json"}


def test_the_seed_decides_the_order_of_training_alone(
    same_images, undisturbed, tmp_path, in_this_process
):
    prepare_images(config(same_images, tmp_path, shuffle_seed=1))
    other, same = contents(tmp_path), contents(undisturbed)
    assert [name for name in same if other[name] == same[name]] == [
        name for name in same if name.startswith("validation")
    ]


def test_other_kinds_of_images_are_encoded_again_and_listed(images, tmp_path, in_this_process):
    folder = images / "train" / CLASSES[1]
    added = {
        "a.JPEG": ("PNG", picture(1, "PNG")),
        "b.gif": ("GIF", picture(2, "GIF", "P")),
        "c.bmp": ("BMP", picture(3, "BMP")),
        "d.JPEG": ("CMYK JPEG", picture(4, mode="CMYK")),
    }
    for name, (_, data) in added.items():
        (folder / name).write_bytes(data)
    info, _ = prepare_images(config(images, tmp_path / "out"))
    assert info.report["train"]["reencoded"] == {
        "count": 4,
        "files": [[f"train/{CLASSES[1]}/{name}", kind] for name, (kind, _) in added.items()],
    }
    assert DatasetInfo.load(tmp_path / "out") == info
    for feature in examples(tmp_path / "out", "train"):
        if bytes_of(feature, "image/filename").decode() in added:
            # The fused operation of the training pipeline takes only grey and colour JPEG.
            data = bytes_of(feature, "image/encoded")
            assert tf.image.decode_and_crop_jpeg(data, [0, 0, 8, 8]).shape == (8, 8, 3)
            assert int_of(feature, "image/channels") == 3


def test_resized_images_are_stored_with_their_new_sizes_and_counted(
    same_images, tmp_path, in_this_process
):
    settings = EncodingSettings(short_side=22, jpeg_quality=90)
    info, _ = prepare_images(config(same_images, tmp_path, encoding=settings))
    resized = 0
    for split, folder in (("train", "train"), ("validation", "val")):
        count = 0
        for feature in examples(tmp_path, split):
            stored = bytes_of(feature, "image/encoded")
            name = bytes_of(feature, "image/filename").decode()
            original = (
                same_images / folder / bytes_of(feature, "image/class/synset").decode() / name
            )
            size = (int_of(feature, "image/width"), int_of(feature, "image/height"))
            assert Image.open(io.BytesIO(stored)).size == size
            if min(Image.open(original).size) > 22:
                assert min(size) == 22
                count += 1
            else:
                assert stored == original.read_bytes()
        assert info.report[split]["resized"] == {"count": count}
        resized += count
    assert 0 < resized < 51
    assert settings.recorded().items() <= info.settings.items()
    with pytest.raises(InputError, match="with a data set of other images or settings"):
        prepare_images(config(same_images, tmp_path))


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/imagenet_photos.tar")
def test_imagenet_photos_go_in_byte_for_byte(tmp_path, in_this_process):
    with tarfile.open(PHOTOS) as tar:
        members = [member for member in tar if member.isfile()][:6]
        files = {Path(member.name).name: tar.extractfile(member).read() for member in members}
    for split in ("train", "val"):
        (tmp_path / "images" / split / "photo").mkdir(parents=True)
        for name, data in files.items():
            (tmp_path / "images" / split / "photo" / name).write_bytes(data)
    prepare_images(config(tmp_path / "images", tmp_path / "out"))
    written = examples(tmp_path / "out", "train")
    assert {
        bytes_of(f, "image/filename").decode(): bytes_of(f, "image/encoded") for f in written
    } == files


# Refusals.


def test_a_wrong_input_folder_leaves_no_output_folder(tmp_path):
    with pytest.raises(InputError, match="which is not a folder"):
        prepare_images(config(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


BAD = {
    "empty.JPEG": (b"", "empty file"),
    "half.JPEG": (picture(5)[:-200], "truncated or damaged JPEG"),
    "noise.JPEG": (np.random.default_rng(0).bytes(500), "not an image"),
    "page.JPEG": (b"<html>not found</html>", "not an image"),
    "half.png": (picture(5, "PNG")[:-40], "truncated or damaged PNG"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_whole_image_is_refused_by_name(images, tmp_path, in_this_process, name):
    data, reason = BAD[name]
    (images / "train" / CLASSES[2] / name).write_bytes(data)
    with pytest.raises(InputError, match=f"1 that does not: train/{CLASSES[2]}/{name} .{reason}"):
        prepare_images(config(images, tmp_path / "out"))
    with pytest.raises(InputError, match=r"no dataset\.json"):
        DatasetInfo.load(tmp_path / "out")


def test_bad_images_can_be_skipped_and_are_listed(images, tmp_path, in_this_process):
    for name, (data, _) in BAD.items():
        (images / "train" / CLASSES[2] / name).write_bytes(data)
    with pytest.raises(InputError, match=r"5 that do not: .* with max_bad_images=5"):
        prepare_images(config(images, tmp_path / "out", max_bad_images=4))
    info, report = prepare_images(config(images, tmp_path / "out", max_bad_images=5))
    assert info.splits["train"].num_examples == 36
    assert report.shards_kept == 6, "the shards of the first attempt are not written again"
    assert info.report["train"]["refused"] == {
        "count": 5,
        "files": sorted([f"train/{CLASSES[2]}/{name}", why] for name, (_, why) in BAD.items()),
    }
    with pytest.raises(InputError, match="5 that do not"):
        prepare_images(config(images, tmp_path / "out"))


def test_no_more_than_ten_bad_images_are_told(images, tmp_path, in_this_process):
    for number in range(12):
        (images / "train" / CLASSES[0] / f"bad{number:02d}.JPEG").write_bytes(b"bad")
    with pytest.raises(InputError, match=r"12 that do not: .*bad09.JPEG \(not an image\), \.\.\."):
        prepare_images(config(images, tmp_path / "out"))


def test_a_split_without_one_good_image_is_refused(tmp_path, in_this_process):
    for split, data in (("train", picture(0)), ("val", b"bad")):
        (tmp_path / "images" / split / "a").mkdir(parents=True)
        (tmp_path / "images" / split / "a" / "0.JPEG").write_bytes(data)
    with pytest.raises(InputError, match="none in validation"):
        prepare_images(config(tmp_path / "images", tmp_path / "out", max_bad_images=1))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("train_shards", 0), ("validation_shards", -1), ("num_processes", 0), ("max_bad_images", -1)],
)
def test_impossible_settings_are_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting} must be at least .* Received: {value}"):
        PrepareConfig("in", "out", **{setting: value})


def test_a_second_call_finds_the_data_set_and_writes_nothing(
    same_images, undisturbed, in_this_process
):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    info, report = prepare_images(config(same_images, undisturbed))
    assert info == DatasetInfo.load(undisturbed)
    assert (report.shards_written, report.shards_kept) == (0, 6)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before


def test_a_lost_or_cut_shard_is_written_again(same_images, undisturbed, tmp_path, in_this_process):
    for name, data in contents(undisturbed).items():
        (tmp_path / name).write_bytes(data[: -1 if name.startswith("validation") else None])
    (tmp_path / "train-00002-of-00004").unlink()
    prepare_images(config(same_images, tmp_path))
    assert contents(tmp_path) == contents(undisturbed)


def test_another_data_set_is_refused_unless_overwrite(images, tmp_path, in_this_process):
    out = tmp_path / "out"
    prepare_images(config(images, out))
    before = contents(out)
    (images / "train" / CLASSES[0] / "new.JPEG").write_bytes(picture(77))
    for changes in ({}, {"train_shards": 3}, {"shuffle_seed": 1}, {"name": "other"}):
        with pytest.raises(InputError, match="with a data set of other images or settings"):
            prepare_images(config(images, out, **changes))
    assert contents(out) == before
    info, _ = prepare_images(config(images, out, train_shards=3, overwrite=True))
    assert info.splits["train"].num_examples == 37
    assert not (out / "train-00000-of-00004").exists()


def test_an_unfinished_data_set_of_other_settings_is_refused_unless_overwrite(
    images, tmp_path, in_this_process
):
    bad = images / "train" / CLASSES[0] / "bad.JPEG"
    bad.write_bytes(b"bad")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"bad\.JPEG"):
        prepare_images(config(images, out))
    bad.unlink()
    (out / ".train-00000-of-00004.tmp").write_bytes(b"left by a killed process")
    with pytest.raises(InputError, match="an unfinished preparation of other"):
        prepare_images(config(images, out))
    info, report = prepare_images(config(images, out, overwrite=True))
    assert (info.splits["train"].num_examples, report.shards_kept) == (36, 0)
    assert all(not name.startswith(".") for name in contents(out))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_never_touched(
    same_images, tmp_path, in_this_process, overwrite
):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"with other files \(thesis.txt\)"):
        prepare_images(config(same_images, tmp_path, overwrite=overwrite))
    assert contents(tmp_path) == {"thesis.txt": b"dear"}


def test_an_output_folder_that_cannot_be_made_is_told(same_images, tmp_path, in_this_process):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output folder must be writable"):
        prepare_images(config(same_images, tmp_path / "file" / "out"))


def test_the_output_may_be_remote(same_images, undisturbed, in_this_process):
    remote = "ram://prepare_test/out"
    info, _ = prepare_images(config(same_images, remote))
    assert info == DatasetInfo.load(undisturbed)
    assert sorted(tf.io.gfile.listdir(remote)) == sorted(contents(undisturbed))
    assert prepare_images(config(same_images, remote))[1].shards_written == 0


def test_a_scheme_without_a_file_system_is_told_in_one_sentence(same_images, in_this_process):
    message = r"Received: 's3://bucket/out', but TensorFlow .* supports gs://.* tensorflow-io"
    with pytest.raises(InputError, match=message):
        prepare_images(config(same_images, "s3://bucket/out"))
    with pytest.raises(InputError, match=message):
        DatasetInfo.load("s3://bucket/out")


def test_two_processes_write_the_same_bytes_as_one(same_images, undisturbed, tmp_path):
    _, report = prepare_images(config(same_images, tmp_path, num_processes=2))
    assert (report.shards_written, report.images_written) == (6, 51)
    assert contents(tmp_path) == contents(undisturbed)


# Prints the process IDs of its workers, then sends itself a signal during the third shard.
INTERRUPTED = """
import json, os, subprocess, sys
from tf_lars.data.prepare import preparation, process_pool, progress_bar
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images

class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid, flush=True)

process_pool.subprocess.Popen = Popen
calls = []

def advance(self, count):
    if self.label == "prepare":
        calls.append(count)
    if len(calls) == 3:
        os.kill(os.getpid(), int(sys.argv[2]))

progress_bar.Progress.advance = advance
prepare_images(PrepareConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_leaves_no_process_and_a_rerun_ends_with_the_same_bytes(
    same_images, undisturbed, tmp_path, monkeypatch, number
):
    out = tmp_path / "out"
    settings = vars(config(same_images, out, num_processes=1))
    del settings["encoding"]
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, json.dumps(settings), str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == -number, run.stderr
    (worker,) = map(int, run.stdout.split())
    assert has_ended(worker)
    with pytest.raises(InputError, match=r"no dataset\.json"):
        DatasetInfo.load(out)
    monkeypatch.setattr(preparation, "run_tasks", run_here)
    _, report = prepare_images(config(same_images, out))
    assert report.shards_kept >= 2
    assert contents(out) == contents(undisturbed)


def has_ended(pid):
    """Waits for the end of a process that is not a child; returns whether it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
    finally:
        os.close(descriptor)

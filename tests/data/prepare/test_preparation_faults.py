"""Preparation with faults: damaged files of every kind, and kills at any point."""

import io
import os
import random
import shutil
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
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError

PHOTOS = SHARED / "data/imagenet_photos.tar"
CASES = SHARED / "cases/images"


def made_picture(number):
    """Returns a picture with enough detail for its JPEG to have a scan worth damaging."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8))
    return coarse.resize((160, 120), Image.Resampling.BICUBIC)


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos(count):
    """Returns JPEG files, of real photos if they are available."""
    if not PHOTOS.exists():
        return [encode(made_picture(number), quality=90) for number in range(count)]
    with tarfile.open(PHOTOS) as tar:
        members = [member for member in tar if member.isfile()]
        return [tar.extractfile(member).read() for member in members[:count]]


@pytest.fixture(scope="module")
def photo():
    return photos(1)[0]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepares one file next to a good one, without worker processes."""

    def run_here(function, tasks, num_processes, held_files=()):
        for task in tasks:
            yield function(task, lambda count: None)

    monkeypatch.setattr(preparation, "run_tasks", run_here)

    def prepare_beside(name, data, **changes):
        for split in ("train", "val"):
            (tmp_path / "images" / split / "class").mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / split / "class" / "good.JPEG").write_bytes(photos(1)[0])
        (tmp_path / "images/train/class" / name).write_bytes(data)
        folders = str(tmp_path / "images"), str(tmp_path / "out")
        return prepare_images(PrepareConfig(*folders, **changes))[0]

    return prepare_beside


def stored(out, name):
    for record in tf.data.TFRecordDataset([str(path) for path in out.glob("train-*")]):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        if feature["image/filename"].bytes_list.value == [name.encode()]:
            return feature["image/encoded"].bytes_list.value[0]
    raise AssertionError(name)


def pixels(data):
    return Image.open(io.BytesIO(data))


REFUSED = {
    "truncated at 50 %": (lambda d: d[: len(d) // 2], "truncated or damaged JPEG"),
    "truncated at 95 %": (lambda d: d[: len(d) * 95 // 100], "truncated or damaged JPEG"),
    "progressive, truncated": (
        lambda d: (p := encode(pixels(d), progressive=True))[: len(p) * 95 // 100],
        "truncated or damaged JPEG",
    ),
    "second half is zeros": (
        lambda d: d[: len(d) // 2] + bytes(len(d) - len(d) // 2),
        "truncated or damaged JPEG",
    ),
    "second half is another file": (
        lambda d: d[: len(d) // 2] + encode(made_picture(1)),
        "truncated or damaged JPEG",
    ),
    "zero bytes long": (lambda d: b"", "empty file"),
    "zeros": (lambda d: bytes(5000), "not an image"),
    "random bytes": (lambda d: random.Random(0).randbytes(5000), "not an image"),
    "BMP, truncated": (lambda d: encode(pixels(d), "BMP")[:-99], "truncated or damaged BMP"),
    "WebP, truncated": (lambda d: encode(pixels(d), "WEBP")[:-99], "truncated or damaged WebP"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_damaged_file_is_refused_by_name(photo, prepared, kind):
    damage, reason = REFUSED[kind]
    with pytest.raises(InputError, match=rf"train/class/bad\.JPEG .{reason}"):
        prepared("bad.JPEG", damage(photo))


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared/cases/images")
def test_files_that_were_handled_wrongly_are_refused_by_name(photo, prepared, tmp_path):
    reasons = {path.name: "truncated or damaged JPEG" for path in CASES.iterdir()}
    reasons |= {
        "anim.webp": "animated WebP",
        "bomb_prog_20000.jpg": "20000 x 20000 pixels, more than max_image_pixels=178956970",
    }
    shutil.copytree(CASES, tmp_path / "images/train/class")
    info = prepared("fine.JPEG", photo, max_bad_images=len(reasons))
    assert info.report["train"]["refused"] == {
        "count": len(reasons),
        "files": [[f"train/class/{name}", reasons[name]] for name in sorted(reasons)],
    }
    assert info.splits["train"].num_examples == 2


REENCODED = {
    "PNG": lambda d: encode(pixels(d), "PNG"),
    "GIF": lambda d: encode(pixels(d).convert("P"), "GIF"),
    "BMP": lambda d: encode(pixels(d), "BMP"),
    "CMYK JPEG": lambda d: encode(pixels(d).convert("CMYK"), quality=95),
    "WebP": lambda d: encode(pixels(d), "WEBP", quality=95),
}


@pytest.mark.parametrize("kind", REENCODED)
def test_another_format_named_jpeg_is_encoded_again_and_listed(photo, prepared, tmp_path, kind):
    if kind == "WebP" and not hasattr(tf.io, "decode_webp"):
        pytest.skip("this TensorFlow reads no WebP")
    info = prepared("other.JPEG", REENCODED[kind](photo))
    assert info.report["train"]["reencoded"] == {
        "count": 1,
        "files": [["train/class/other.JPEG", kind]],
    }
    data = stored(tmp_path / "out", "other.JPEG")
    assert tf.image.decode_and_crop_jpeg(data, [0, 0, 8, 8]).shape == (8, 8, 3)
    assert pixels(data).size == pixels(photo).size


def with_orientation(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(pixels(data), exif=exif)


UNCHANGED = {
    "grey": lambda d: encode(pixels(d).convert("L")),
    "progressive": lambda d: encode(pixels(d), progressive=True),
    "trailing bytes": lambda d: d + b"trailing" * 9,
    "EXIF orientation 6": with_orientation,
}


@pytest.mark.parametrize("kind", UNCHANGED)
def test_a_file_that_decoders_take_passes_byte_for_byte(photo, prepared, tmp_path, kind):
    data = UNCHANGED[kind](photo)
    info = prepared("fine.JPEG", data)
    assert info.report["train"]["reencoded"]["count"] == 0
    assert stored(tmp_path / "out", "fine.JPEG") == data


def test_bits_that_flip_in_a_scan_after_preparation_are_found_by_the_hash(
    photo, prepared, tmp_path
):
    prepared("also_good.JPEG", photo)
    (shard,) = (tmp_path / "out").glob("train-*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(InputError, match=f"1 of 2 that differ.* {shard.name}"):
        verify.verify(tmp_path / "out")


@pytest.mark.parametrize("length", [0, 5])
def test_a_shard_that_is_empty_or_cut_in_a_length_header_is_found_when_it_is_opened(
    photo, prepared, tmp_path, length
):
    prepared("also_good.JPEG", photo)
    (shard,) = (tmp_path / "out").glob("train-*")
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(InputError, match=f"{shard.name} of {length} bytes instead of"):
        DatasetInfo.load(tmp_path / "out")


# Kills. Python runs this file in every process of the program, before the program's first line. It
# counts the operations of the process on files of the input and the output, in a file per role, and
# kills the victim just before a given one.
SITE = """
import os, signal, sys

FOLDER, ROLE, LAST = os.environ["FOLDER"], os.environ["ROLE"], int(os.environ["LAST"])
count = 0

def hook(event, args):
    global count
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir"):
        return
    if not args or not str(args[0]).startswith(FOLDER):
        return
    count += 1
    role = "worker" if sys.argv[0] == "-c" else "caller"
    os.write(logs[role], b".")
    if role == ROLE and count == LAST:
        if os.environ["WITH_CALLER"]:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

logs = {
    role: os.open(os.environ["LOGS"] + role, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for role in ("caller", "worker")
}
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the program on 24 photos in 6 shards, and kills it at a given operation."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    for number, data in enumerate(photos(24)):
        split, name = ("val" if number % 4 == 3 else "train"), f"class{number // 4 % 2}"
        (folder / "data/images" / split / name).mkdir(parents=True, exist_ok=True)
        (folder / "data/images" / split / name / f"{number}.JPEG").write_bytes(data)

    def run_once(out, role="nobody", last=0, with_caller=False):
        logs = folder / f"{out}."
        result = subprocess.run(
            [
                *(sys.executable, "-m", "launch.prepare_imagenet"),
                f"--input_dir={folder / 'data/images'}",
                f"--output_dir={folder / 'data' / out}",
                *("--train_shards=4", "--validation_shards=2", "--num_processes=1"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(folder / "site"),
                "FOLDER": str(folder / "data"),
                "LOGS": str(logs),
                "ROLE": role,
                "LAST": str(last),
                "WITH_CALLER": "yes" if with_caller else "",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        counts = {role: Path(f"{logs}{role}").stat().st_size for role in ("caller", "worker")}
        return folder / "data" / out, result, counts

    return run_once


@pytest.mark.exhaustive
def test_killed_at_20_random_points_a_rerun_ends_with_the_bytes_of_an_undisturbed_run(
    run, monkeypatch
):
    undisturbed, result, counts = run("undisturbed")
    assert result.returncode == 0, result.stderr
    expected = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    assert len(expected) == 7
    rng = random.Random(0)
    # Most operations are those of a worker; the others are the caller's, before and after.
    roles = ["worker"] * 10 + ["worker and caller"] * 5 + ["caller"] * 5
    for number, role in enumerate(roles):
        victim = role.split()[0]
        last = rng.randint(1, counts[victim])
        out, result, _ = run(f"out{number}", victim, last, with_caller="and" in role)
        where = f"{role} killed at step {last} of {counts[victim]}: {result.stderr}"
        assert result.returncode == (1 if role == "worker" else -signal.SIGKILL), where
        # The caller's last steps only tidy up.
        finished = (out / "dataset.json").exists()
        assert not finished or all((out / name).exists() for name in expected), where
        # Immediately, while a worker of the killed caller may still be running.
        out, result, _ = run(f"out{number}")
        assert result.returncode == 0, f"{where}\n{result.stderr}"
        assert {path.name: path.read_bytes() for path in out.iterdir()} == expected, where

"""Decoders that crash: the file is named, and everything else is prepared."""

import numpy as np
import pytest

from tests.helpers.image_files import colours, encoded
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.image_header import BadImage
from tf_lars.data.prepare.pictures import encode_pictures
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.data.prepare.process_pool import WorkerDeath

# Python runs this file in every worker, which inherits the search path: decoding a file that ends
# in one of these words ends the process.
SITE = """
import os, signal
from PIL import Image

real_open = Image.open


def open_or_die(file, *args, **kwargs):
    content = file.getvalue()
    if content.endswith(b"abort"):
        os.abort()
    if content.endswith(b"kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if content.endswith(b"once") and not os.path.exists(MARK):
        open(MARK, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return real_open(file, *args, **kwargs)


Image.open = open_or_die
"""


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Makes decoders deadly for marked files; returns the content of such a file."""
    (tmp_path / "site").mkdir()
    mark = str(tmp_path / "mark")
    (tmp_path / "site/sitecustomize.py").write_text(SITE.replace("MARK", repr(mark)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return lambda word: encoded(colours()[..., 0], "GIF") + word


@pytest.fixture
def config(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "images" / split / "class").mkdir(parents=True)
        for number in range(3):
            pixels = np.roll(colours(), number, axis=1)
            name = f"images/{split}/class/{number}.jpg"
            (tmp_path / name).write_bytes(encoded(pixels, "JPEG"))
    folders = str(tmp_path / "images"), str(tmp_path / "out")
    return lambda **changes: PrepareConfig(*folders, num_processes=1, **changes)


def test_a_file_that_crashes_its_decoder_is_a_bad_image_and_the_others_are_written(
    tmp_path, deadly, config
):
    for word in (b"abort", b"kill"):
        (tmp_path / f"images/train/class/{word.decode()}.gif").write_bytes(deadly(word))
    info, report = prepare_images(config(max_bad_images=2))
    assert info.report["train"]["refused"] == {
        "count": 2,
        "files": [
            ["train/class/abort.gif", "crashes the decoder"],
            ["train/class/kill.gif", "crashes the decoder"],
        ],
    }
    assert (info.splits["train"].num_examples, report.images_written) == (3, 6)


@pytest.mark.slow
def test_a_worker_killed_from_outside_ends_the_preparation_and_a_rerun_continues(
    tmp_path, deadly, config
):
    (tmp_path / "images/train/class/fine.gif").write_bytes(deadly(b"once"))
    message = r"exit code -9 .*while working on train/class/fine\.gif\. Run again to continue"
    with pytest.raises(WorkerDeath, match=message):
        prepare_images(config())
    info, _ = prepare_images(config())
    assert info.splits["train"].num_examples == 4


def test_a_picture_that_crashes_its_decoder_is_named(tmp_path, deadly):
    paths = [str(tmp_path / name) for name in ("good.png", "bad.gif", "unseen.png")]
    for path, data in zip(paths, (encoded(colours(), "PNG"), deadly(b"abort"), b""), strict=True):
        (tmp_path / path).write_bytes(data)
    with pytest.raises(BadImage, match=r"bad\.gif' \(its decoder ended with exit code -6\)"):
        encode_pictures(paths, EncodingSettings())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"text", "not an image"),
        (encoded(colours(), "PNG"), "47 x 33 pixels, more than max_image_pixels=1500"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "picture"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadImage, match=rf"picture' \(.*{reason}"):
        encode_pictures([str(path)], EncodingSettings(max_image_pixels=1500))

"""EXIF orientations: found in every format that has them, counted, and applied if wanted."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.image_files import RGB, colours, encoded, exif_block, png, with_exif
from tf_lars.data.prepare import exif, preparation
from tf_lars.data.prepare.encode import EncodingSettings, to_jpeg
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.errors import InputError

PICTURE = colours()
APPLY = EncodingSettings(jpeg_quality=100, exif="apply")


def oriented_files(orientation, order="<"):
    """Returns the picture with an orientation, as the content of a file of each format."""
    block = exif_block(orientation, order)
    with_signature = b"Exif\0\0" + block
    return {
        "JPEG": with_exif(encoded(PICTURE, "JPEG", quality=100), block),
        "progressive JPEG": with_exif(encoded(PICTURE, "JPEG", progressive=True), block),
        "grey JPEG": with_exif(encoded(PICTURE[..., 0], "JPEG"), block),
        "CMYK JPEG": with_exif(encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"), block),
        "PNG": png(PICTURE, RGB, depth=8, chunks=[(b"eXIf", block)]),
        "WebP": encoded(PICTURE, "WEBP", exif=with_signature),
        "WebP without signature": encoded(PICTURE, "WEBP", exif=block),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_as_pillow_applies_it_or_else_ignored(orientation):
    for order in "<>":
        for name, data in oriented_files(orientation, order).items():
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            turned = to_jpeg(data, APPLY)
            assert turned.oriented == (orientation != 1), name
            assert turned.header[:2] == upright.size, name
            shown = Image.open(io.BytesIO(turned.data))
            assert shown.size == upright.size, name
            assert shown.getexif().get(0x0112, 1) == 1, name
            levels = np.asarray(shown.convert("RGB"), float) - np.asarray(upright, float)
            assert np.abs(levels).mean() < 3, name
            stored = to_jpeg(data)
            assert stored.oriented == turned.oriented
            assert stored.header[:2] == (47, 33)
            if name in ("JPEG", "progressive JPEG", "grey JPEG"):
                assert stored.data == data, name
                assert (turned.data == data) == (orientation == 1), name
                assert turned.reencoded_from is None, name


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_an_image_is_turned_and_resized(name):
    data = oriented_files(6)[name]
    image = to_jpeg(data, EncodingSettings(short_side=20, exif="apply"))
    assert (image.resized, image.oriented, image.header[:2]) == (True, True, (20, 28))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(upright.resize((20, 28), Image.Resampling.BOX), float)
    shown = np.asarray(Image.open(io.BytesIO(image.data)), float)
    assert np.abs(shown - expected).mean() < 4


_BLOCK = exif_block(6)
_UNREADABLE = {
    "no such orientation": exif_block(9),
    "orientation 0": exif_block(0),
    "orientation of another type": _BLOCK.replace(b"\x12\x01\x03\0", b"\x12\x01\x04\0"),
    "another byte order": b"XX" + _BLOCK[2:],
    "directory beyond the end": _BLOCK[:4] + b"\xff\xff\xff\x7f" + _BLOCK[8:],
    "not a TIFF": b"camera" * 9,
    "empty": b"",
}


@pytest.mark.parametrize("name", _UNREADABLE)
def test_an_unreadable_block_means_upright(name):
    data = with_exif(encoded(PICTURE, "JPEG"), _UNREADABLE[name])
    image = to_jpeg(data, APPLY)
    assert (image.data, image.oriented) == (data, False)


def test_a_block_cut_anywhere_is_read_without_an_error():
    for length in range(len(_BLOCK)):
        data = with_exif(encoded(PICTURE, "JPEG"), _BLOCK[:length])
        assert exif.orientation(data, "JPEG") in (1, 6)
        chunked = png(PICTURE, RGB, depth=8, chunks=[(b"eXIf", _BLOCK[:length])])
        assert exif.orientation(chunked[: 33 + length], "PNG") in (1, 6)


def test_oriented_images_are_counted_whether_they_are_turned_or_not(tmp_path, monkeypatch):
    def run_here(function, tasks, *_):
        for task in tasks:
            yield function(task, lambda count: None)

    monkeypatch.setattr(preparation, "run_tasks", run_here)
    upright = encoded(PICTURE, "JPEG")
    for split, orientations in (("train", (1, 6, 3)), ("val", (8, 1))):
        (tmp_path / "images" / split / "class").mkdir(parents=True)
        for number, orientation in enumerate(orientations):
            data = with_exif(upright, exif_block(orientation))
            (tmp_path / f"images/{split}/class/{number}.jpg").write_bytes(data)
    sizes = []
    for setting in ("ignore", "apply"):
        config = PrepareConfig(
            str(tmp_path / "images"),
            str(tmp_path / setting),
            encoding=EncodingSettings(exif=setting),
        )
        for _ in ("the first call", "a call that finds everything done"):
            info, _ = prepare_images(config)
            assert info.settings.get("exif", "ignore") == setting
            counts = {split: info.report[split]["oriented"] for split in info.splits}
            assert counts == {"train": {"count": 2}, "validation": {"count": 1}}
        sizes.append([split.num_bytes for split in info.splits.values()])
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exif": "turn"}, "exif must be apply or ignore. Received: 'turn'"),
        ({"max_image_pixels": 0}, "max_image_pixels must be from 1 to 178,956,970"),
        ({"max_image_pixels": 10**9}, "max_image_pixels must be from 1 to 178,956,970"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        EncodingSettings(**settings)

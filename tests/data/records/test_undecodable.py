"""JPEG files that look whole and do not decode: found before they enter the pipeline."""

import io
import struct
import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.records.test_faults import BAD, EXAMPLES, _epoch, _example, _write
from tests.helpers.paths import SHARED
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.records import example_reader, jpeg_markers
from tf_lars.data.records.example import MOST_PIXELS, BadRecord, check_image
from tf_lars.data.records.example_reader import open_split

CASES = SHARED / "cases/images"
SIZES = (16, 40, 200)  # decoded at 1/2 of the size, whole, and without scaling


def _jpeg(seed, size=(90, 70), mode="RGB", **options):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _segment(data, marker):
    """Returns the start and the end of the first segment with a marker."""
    start = data.index(bytes([0xFF, marker]))
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def _twice(data, marker):
    start, end = _segment(data, marker)
    return data[:end] + data[start:]


def _without(data, marker):
    start, end = _segment(data, marker)
    return data[:start] + data[end:]


def _of_size(data, marker, height, width):
    start, _ = _segment(data, marker)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def _second_start(data, marker):
    start, _ = _segment(data, marker)
    return data[:start] + b"\xff\xd8" + data[start:]


def _full_table(data):
    start, _ = _segment(data, 0xC4)
    return data[: start + 5] + b"\xff" + data[start + 6 :]


PLAIN, PROGRESSIVE = _jpeg(0), _jpeg(0, progressive=True)
BROKEN = {
    "second start of image": (_second_start(PLAIN, 0xDB), "without a header|cannot be decoded"),
    "second start after the frame": (_second_start(PLAIN, 0xC4), "damaged|cannot be decoded"),
    "second frame": (_twice(PLAIN, 0xC0), "cannot be decoded"),
    "impossible table": (_full_table(PLAIN), "cannot be decoded"),
    "impossible table, progressive": (_full_table(PROGRESSIVE), "cannot be decoded"),
    "no quantization": (_without(_without(PLAIN, 0xDB), 0xDB), "cannot be decoded"),
    "bomb": (_of_size(PLAIN, 0xC0, 20000, 20000), "20000 x 20000 pixels, above 178,956,970"),
    "progressive bomb": (
        _of_size(PROGRESSIVE, 0xC2, 65000, 60000),
        "60000 x 65000 pixels, above 178,956,970",
    ),
}


def _splits(folder, size, most):
    for split, data in (
        ("train", TrainingInput(folder, EXAMPLES, size, max_bad_records=most)),
        ("validation", EvaluationInput(folder, EXAMPLES, size, max_bad_records=most)),
    ):
        example_reader.open_split.cache_clear()
        yield split, data


@pytest.mark.parametrize("kind", BROKEN)
def test_it_is_a_bad_record_at_any_size(kind, tmp_path):
    image, fault = BROKEN[kind]
    record = _example(BAD, encoded=image)
    for split in ("train", "validation"):
        folder = _write(tmp_path / split, record, split)
        for size in (SIZES[0], SIZES[-1]):
            for name, data in _splits(folder, size, 0):
                if name == split:
                    told = rf"InputError: .*({fault}), in record 1 \(from 0\) of .*00001-of-00002"
                    with pytest.raises(tf.errors.OpError, match=told):
                        _epoch(data)
            for name, data in _splits(folder, size, 1):
                (batch,) = _epoch(data)
                if name == split:
                    assert set(open_split(folder, split, 1).bad) == {BAD}
                if name == "validation":
                    assert batch["weight"].sum() == EXAMPLES - (name == split)


@pytest.mark.skipif(not CASES.exists(), reason=f"needs the images of {CASES}")
def test_the_known_cases_are_bad_records(tmp_path):
    for path in sorted(CASES.glob("*.jpg")):
        folder = _write(tmp_path / path.stem, _example(BAD, encoded=path.read_bytes()))
        with pytest.raises(tf.errors.OpError, match=r"InputError: .*, in record 1 \(from 0\) of"):
            _epoch(TrainingInput(folder, EXAMPLES, 16))


BASES = [
    _jpeg(seed, size, mode, progressive=progressive, subsampling=subsampling, quality=75)
    for seed, (size, mode, progressive, subsampling) in enumerate(
        [
            ((40, 24), "RGB", False, 2),
            ((17, 33), "RGB", True, 0),
            ((64, 9), "L", False, 0),
            ((8, 30), "RGB", True, 2),
            ((50, 50), "RGB", False, 1),
            ((31, 40), "L", True, 0),
        ]
    )
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 60),
        st.sampled_from(
            [b"\xff\xd8", b"\xff\xd9", b"\xff\xd0", b"\xff\xda", b"\xff", b"\0", b"\x11"]
        ),
    ),
    min_size=1,
    max_size=3,
)


def _edited(data, edits):
    for kind, share, length, piece in edits:
        place = int(share * len(data))
        head, tail = data[:place], data[place:]
        data = {
            "set": head + piece + tail[len(piece) :],
            "insert": head + piece + tail,
            "delete": head + tail[length:],
            "repeat": head + tail[:length] + tail,
            "cut": head,
        }[kind]
    return data


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.sampled_from(BASES), EDITS, st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4))
def test_an_image_that_passes_decodes_wherever_it_is_cropped(base, edits, box):
    data = _edited(base, edits)
    header = jpeg_markers.read_header(data)
    if header is None or header.width * header.height > 10**6:  # takes long
        return
    try:
        check_image(data)
    except BadRecord:
        return
    assert tf.io.extract_jpeg_shape(data).numpy()[:2].tolist() == [header.height, header.width]
    for ratio in (1, 2, 4):
        height, width = -(-header.height // ratio), -(-header.width // ratio)
        top, left = int(box[0] * height), int(box[1] * width)
        window = [top, left, 1 + int(box[2] * (height - top)), 1 + int(box[3] * (width - left))]
        cropped = tf.image.decode_and_crop_jpeg(
            data, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )
        assert cropped.shape == (*window[2:], 3)


def test_images_of_any_shape_are_cropped_at_any_size(tmp_path):
    """Also those of one row or column, and of more pixels than the whole picture has."""
    for width, height in [(1, 1), (1, 700), (700, 1), (3, 2), (2000, 9)]:
        record = _example(BAD, encoded=_jpeg(0, (width, height)))
        folder = _write(tmp_path / f"{width}x{height}", record)
        for size in SIZES:
            (batch,) = _epoch(TrainingInput(folder, EXAMPLES, size))
            assert batch["image"].shape == (EXAMPLES, size, size, 3)


def test_one_that_the_check_lets_pass_can_be_named_afterwards(tmp_path, monkeypatch):
    folder = _write(tmp_path / "data", _example(BAD, encoded=BROKEN["second frame"][0]))
    monkeypatch.setattr(jpeg_markers, "is_plain", lambda data: True)
    monkeypatch.setattr(example_reader, "_READERS", weakref.WeakSet())
    assert example_reader.undecodable() is None
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid JPEG"):
        _epoch(TrainingInput(folder, EXAMPLES, 16))
    place = f"a JPEG that cannot be decoded, in record 1 (from 0) of {folder}/train-00001-of-00002"
    assert place in str(example_reader.undecodable())


def test_an_image_at_the_limit_of_pixels_is_left_to_the_decoder():
    side = int(MOST_PIXELS**0.5)
    assert side**2 <= MOST_PIXELS < (side + 1) ** 2
    with pytest.raises(BadRecord, match="above"):
        check_image(_of_size(PLAIN, 0xC0, side + 1, side + 1))

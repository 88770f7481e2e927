import io
import random
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.paths import SHARED
from tf_lars.data.prepare import encode
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.records.jpeg_markers import is_plain, read_header
from tf_lars.errors import InputError

PHOTOS = SHARED / "data/imagenet_photos.tar"


def picture(width=47, height=33):
    """Returns a smooth colour picture, which survives JPEG compression."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 5, y * 7, 255 - x * 2 - y]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


COMMON = {
    "colour": encoded(picture()),
    "grey": encoded(picture().convert("L")),
    "progressive": encoded(picture(), progressive=True),
    "restart markers": encoded(picture(), restart_marker_blocks=2),
    "not subsampled": encoded(picture(), subsampling=0),
    "trailing bytes": encoded(picture()) + b"some more",
    # The thumbnail has another frame header, inside the EXIF segment.
    "thumbnail": encoded(picture(), exif=b"Exif\0\0" + encoded(picture(8, 8))),
    "fill bytes": encoded(picture()).replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
}


@pytest.mark.parametrize("name", COMMON)
def test_common_jpeg_files_pass_byte_for_byte_with_the_right_header(name):
    image = encode.to_jpeg(COMMON[name])
    assert image.data == COMMON[name]
    assert image.reencoded_from is None
    assert image.header[:3] == (47, 33, 1 if name == "grey" else 3)


CONVERTED = {
    "PNG": encoded(picture(), "PNG"),
    "PNG with alpha": encoded(picture().convert("RGBA"), "PNG"),
    "PNG grey with alpha": encoded(picture().convert("LA"), "PNG"),
    "PNG with palette": encoded(picture().convert("P"), "PNG"),
    "PNG of one bit": encoded(picture().convert("1"), "PNG"),
    "GIF": encoded(picture().convert("P"), "GIF"),
    "GIF animation": encoded(
        picture().convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (47, 33))]
    ),
    "BMP": encoded(picture(), "BMP"),
    "BMP grey": encoded(picture().convert("L"), "BMP"),
    "BMP with palette": encoded(picture().convert("P"), "BMP"),
    "BMP with alpha": encoded(picture().convert("RGBA"), "BMP"),
    "CMYK JPEG": encoded(picture().convert("CMYK"), quality=95),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_other_images_become_rgb_jpeg_of_the_same_picture(name):
    image = encode.to_jpeg(CONVERTED[name])
    assert name.startswith(image.reencoded_from)
    assert image.header == read_header(image.data)
    assert image.header[:3] == (47, 33, 3)
    assert encode.to_jpeg(image.data).reencoded_from is None
    original = np.asarray(Image.open(io.BytesIO(CONVERTED[name])).convert("RGB"), float)
    decoded = tf.io.decode_jpeg(image.data, dct_method="INTEGER_ACCURATE").numpy()
    # Palettes and single bits are dithered, and JPEG blurs dithering.
    tolerance = 16 if "palette" in name or "GIF" in name or "bit" in name else 2
    assert np.abs(decoded - original).mean() < tolerance


@pytest.mark.skipif(not hasattr(tf.io, "decode_webp"), reason="this TensorFlow reads no WebP")
def test_webp_becomes_jpeg():
    image = encode.to_jpeg(encoded(picture(), "WEBP"))
    assert image.reencoded_from == "WebP"
    assert image.header[:3] == (47, 33, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an image"),
        (bytes(range(256)) * 20, "not an image"),
        (bytes(4096), "not an image"),
        (encoded(picture(), "TIFF"), "not an image"),
        (b"\xff\xd8", "truncated or damaged JPEG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "truncated or damaged JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "truncated or damaged PNG"),
        (CONVERTED["PNG"][:-60], "truncated or damaged PNG"),
        (CONVERTED["GIF"][:400], "truncated or damaged GIF"),
        (CONVERTED["BMP"][:400], "truncated or damaged BMP"),
        (CONVERTED["CMYK JPEG"][:-400], "truncated or damaged CMYK JPEG"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_its_reason(data, reason):
    with pytest.raises(encode.BadImage, match=f"^{reason}$"):
        encode.to_jpeg(data)


@pytest.mark.parametrize("name", ["colour", "grey", "progressive", "restart markers"])
def test_a_jpeg_cut_anywhere_is_refused(name):
    data = COMMON[name]
    # The last byte is half of the end marker: the picture is complete without it.
    for length in [*range(0, len(data) - 1, 37), len(data) - 2]:
        with pytest.raises(encode.BadImage):
            encode.to_jpeg(data[:length])


@pytest.mark.parametrize("name", ["colour", "grey", "progressive", "restart markers"])
def test_the_check_agrees_with_a_full_decode_near_the_end(name):
    for cut in range(60):
        data = COMMON[name][: len(COMMON[name]) - cut]
        assert accepts(encode.to_jpeg, data) == accepts(tf.io.decode_jpeg, data)


def test_only_one_whole_scan_needs_no_decoder():
    assert {name: is_plain(data) for name, data in COMMON.items()} == {
        name: name != "progressive" for name in COMMON
    }


@pytest.mark.parametrize("name", COMMON)
def test_what_passes_by_its_structure_decodes_whatever_was_done_to_it(name):
    rng = random.Random(name)
    passed = 0
    for _ in range(400):
        data = bytearray(COMMON[name])
        headers = data.rindex(b"\xff\xda") + 14
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(2, headers if rng.random() < 0.8 else len(data))
            rng.choice([set_byte, flip_bit, cut_out, insert])(rng, data, place)
        if is_plain(bytes(data)):
            passed += 1
            assert accepts(tf.io.decode_jpeg, bytes(data))
    assert name == "progressive" or 20 < passed < 380


def set_byte(rng, data, place):
    data[place] = rng.choice([0, 255, 0xD9, 0xC4, 0xDA, rng.randrange(256)])


def flip_bit(rng, data, place):
    data[place] ^= 1 << rng.randrange(8)


def cut_out(rng, data, place):
    if len(data) > place + 20:
        del data[place : place + rng.randrange(1, 9)]


def insert(rng, data, place):
    data[place:place] = rng.randbytes(rng.randrange(1, 9))


def accepts(decode, data):
    try:
        decode(data)
    except (encode.BadImage, tf.errors.InvalidArgumentError):
        return False
    return True


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_reading_a_header_ends_without_an_error_on_any_bytes(noise, position):
    data = COMMON["colour"]
    for attempt in (noise, b"\xff\xd8" + noise, data[:position] + noise + data[position:]):
        header = read_header(attempt)
        assert header is None or min(header.width, header.height, header.channels) >= 1


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/imagenet_photos.tar")
def test_imagenet_photos_pass_byte_for_byte_with_their_size():
    with tarfile.open(PHOTOS) as tar:
        members = [member for member in tar if member.isfile()][::10]
        assert len(members) == 20
        for member in members:
            data = tar.extractfile(member).read()
            image = encode.to_jpeg(data)
            assert image.data == data
            assert image.header[:2] == Image.open(io.BytesIO(data)).size
            with pytest.raises(encode.BadImage):
                encode.to_jpeg(data[: len(data) * 95 // 100])


# Resizing.


@pytest.mark.parametrize(("size", "expected"), [((60, 40), (30, 20)), ((33, 47), (20, 28))])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_is_resized_to_its_short_side(mode, size, expected):
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([4 * x, 4 * y, 250 - 2 * x - 2 * y], axis=-1).astype(np.uint8)
    original = Image.fromarray(pixels).convert(mode)
    image = encode.to_jpeg(encoded(original, quality=95), EncodingSettings(short_side=20))
    assert image.resized
    assert image.reencoded_from is None
    assert image.header == read_header(image.data)
    assert image.header[:3] == (*expected, len(mode))
    wanted = np.asarray(original.resize(expected, Image.Resampling.BOX), float)
    decoded = np.asarray(Image.open(io.BytesIO(image.data)), float)
    assert np.abs(decoded - wanted).mean() < 3


@pytest.mark.parametrize("short_side", [33, 34, 1000])
def test_a_smaller_image_is_never_enlarged_and_passes_byte_for_byte(short_side):
    image = encode.to_jpeg(COMMON["colour"], EncodingSettings(short_side))
    assert (image.data, image.resized) == (COMMON["colour"], False)


def test_a_png_is_resized_too_and_a_small_one_is_only_encoded_again():
    image = encode.to_jpeg(CONVERTED["PNG"], EncodingSettings(20))
    assert (image.reencoded_from, image.resized, image.header[:2]) == ("PNG", True, (28, 20))
    image = encode.to_jpeg(CONVERTED["PNG"], EncodingSettings(40))
    assert (image.reencoded_from, image.resized, image.header[:2]) == ("PNG", False, (47, 33))


def test_the_quality_decides_the_size_and_chroma_is_halved():
    sizes = [
        len(encode.to_jpeg(CONVERTED["PNG"], EncodingSettings(jpeg_quality=quality)).data)
        for quality in (50, 90, 100)
    ]
    assert sizes == sorted(set(sizes))
    data = encode.to_jpeg(COMMON["not subsampled"], EncodingSettings(20, 90)).data
    frame = data.index(b"\xff\xc0")
    assert [data[frame + 11 + 3 * component] for component in range(3)] == [0x22, 0x11, 0x11]
    expected = Image.open(io.BytesIO(encoded(picture(), quality=90))).quantization
    assert Image.open(io.BytesIO(data)).quantization == expected


@pytest.mark.parametrize("name", ["colour", "progressive"])
def test_a_truncated_image_is_refused_where_it_would_be_resized(name):
    with pytest.raises(encode.BadImage, match="truncated or damaged JPEG"):
        encode.to_jpeg(COMMON[name][:-20], EncodingSettings(20))


def test_the_decoders_own_reduction_changes_nothing_to_speak_of(monkeypatch):
    """Encodes a picture of eight times the wanted size, which the decoder reduces to a quarter."""
    coarse = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(coarse).resize((640, 512), Image.Resampling.BICUBIC), quality=95)
    settings, header = EncodingSettings(64, 95), read_header(data)
    assert encode._decode_towards(data, header, settings).shape == (128, 160, 3)
    image = encode.to_jpeg(data, settings)
    monkeypatch.setattr(encode, "_decode_towards", lambda *_: tf.io.decode_jpeg(data).numpy())
    exact = encode.to_jpeg(data, settings)
    one, other = (np.asarray(Image.open(io.BytesIO(i.data)), float) for i in (image, exact))
    assert one.shape == other.shape == (64, 80, 3)
    assert 10 * np.log10(255**2 / ((one - other) ** 2).mean()) > 35


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 90), "short_side must be at least 1"),
        ((256, 101), "jpeg_quality must be from 1 to 100"),
    ],
)
def test_impossible_encodings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        EncodingSettings(*settings)

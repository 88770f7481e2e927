import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tf_lars.data import jpeg

PHOTOS = Path(__file__).parents[2].parent / "shared/data/imagenet_photos.tar"


def picture(width=47, height=33):
    """A smooth colour picture, which survives JPEG compression."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 5, y * 7, 255 - x * 2 - y]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


COMMON = {
    "colour": encode(picture()),
    "grey": encode(picture().convert("L")),
    "progressive": encode(picture(), progressive=True),
    "restart markers": encode(picture(), restart_marker_blocks=2),
    "not subsampled": encode(picture(), subsampling=0),
    "trailing bytes": encode(picture()) + b"some more",
    # The thumbnail has a frame header of its own, inside the EXIF segment.
    "thumbnail": encode(picture(), exif=b"Exif\0\0" + encode(picture(8, 8))),
    "fill bytes": encode(picture()).replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
}


@pytest.mark.parametrize("name", COMMON)
def test_common_jpeg_files_pass_byte_for_byte_with_the_right_header(name):
    image = jpeg.to_jpeg(COMMON[name])
    assert image.data == COMMON[name]
    assert image.reencoded_from is None
    assert image.header[:3] == (47, 33, 1 if name == "grey" else 3)


CONVERTED = {
    "PNG": encode(picture(), "PNG"),
    "PNG with alpha": encode(picture().convert("RGBA"), "PNG"),
    "PNG grey with alpha": encode(picture().convert("LA"), "PNG"),
    "PNG with palette": encode(picture().convert("P"), "PNG"),
    "PNG of one bit": encode(picture().convert("1"), "PNG"),
    "GIF": encode(picture().convert("P"), "GIF"),
    "GIF animation": encode(
        picture().convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (47, 33))]
    ),
    "BMP": encode(picture(), "BMP"),
    "BMP grey": encode(picture().convert("L"), "BMP"),
    "BMP with palette": encode(picture().convert("P"), "BMP"),
    "BMP with alpha": encode(picture().convert("RGBA"), "BMP"),
    "CMYK JPEG": encode(picture().convert("CMYK"), quality=95),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_other_images_become_rgb_jpeg_of_the_same_picture(name):
    image = jpeg.to_jpeg(CONVERTED[name])
    assert name.startswith(image.reencoded_from)
    assert image.header == jpeg.read_header(image.data)
    assert image.header[:3] == (47, 33, 3)
    assert jpeg.to_jpeg(image.data).reencoded_from is None
    original = np.asarray(Image.open(io.BytesIO(CONVERTED[name])).convert("RGB"), float)
    decoded = tf.io.decode_jpeg(image.data, dct_method="INTEGER_ACCURATE").numpy()
    # Palettes and single bits are dithered, and JPEG blurs dithering.
    tolerance = 16 if "palette" in name or "GIF" in name or "bit" in name else 2
    assert np.abs(decoded - original).mean() < tolerance


@pytest.mark.skipif(not hasattr(tf.io, "decode_webp"), reason="this TensorFlow reads no WebP")
def test_webp_becomes_jpeg():
    image = jpeg.to_jpeg(encode(picture(), "WEBP"))
    assert image.reencoded_from == "WebP"
    assert image.header[:3] == (47, 33, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an image"),
        (bytes(range(256)) * 20, "not an image"),
        (bytes(4096), "not an image"),
        (encode(picture(), "TIFF"), "not an image"),
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
    with pytest.raises(jpeg.BadImage, match=f"^{reason}$"):
        jpeg.to_jpeg(data)


@pytest.mark.parametrize("name", ["colour", "grey", "progressive", "restart markers"])
def test_a_jpeg_cut_anywhere_is_refused(name):
    data = COMMON[name]
    # The very last byte is half of the end marker: the picture is whole without it.
    for length in [*range(0, len(data) - 1, 37), len(data) - 2]:
        with pytest.raises(jpeg.BadImage):
            jpeg.to_jpeg(data[:length])


@pytest.mark.parametrize("name", ["colour", "grey", "progressive", "restart markers"])
def test_the_check_at_one_eighth_agrees_with_a_full_decode_near_the_end(name):
    for cut in range(60):
        data = COMMON[name][: len(COMMON[name]) - cut]
        assert accepts(jpeg.to_jpeg, data) == accepts(tf.io.decode_jpeg, data)


def accepts(decode, data):
    try:
        decode(data)
    except (jpeg.BadImage, tf.errors.InvalidArgumentError):
        return False
    return True


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_reading_a_header_ends_without_an_error_on_any_bytes(noise, position):
    data = COMMON["colour"]
    for attempt in (noise, b"\xff\xd8" + noise, data[:position] + noise + data[position:]):
        header = jpeg.read_header(attempt)
        assert header is None or min(header.width, header.height, header.channels) >= 1


@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/imagenet_photos.tar")
def test_imagenet_photos_pass_byte_for_byte_with_their_size():
    with tarfile.open(PHOTOS) as tar:
        members = [member for member in tar if member.isfile()][::10]
        assert len(members) == 20
        for member in members:
            data = tar.extractfile(member).read()
            image = jpeg.to_jpeg(data)
            assert image.data == data
            assert image.header[:2] == Image.open(io.BytesIO(data)).size
            with pytest.raises(jpeg.BadImage):
                jpeg.to_jpeg(data[: len(data) * 95 // 100])

"""Every variant of every format comes out in its own colours, or is refused by name."""

import io
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.image_files import (
    ALPHA_BITFIELDS,
    BITFIELDS,
    GREY,
    GREY_ALPHA,
    HEIGHT,
    RGB,
    RGBA,
    RLE4,
    RLE8,
    WIDTH,
    bmp,
    colours,
    encoded,
    exif_block,
    gif_on_canvas,
    packed,
    png,
)
from tf_lars.data.prepare.encode import EncodingSettings, to_jpeg
from tf_lars.data.prepare.image_header import BadImage
from tf_lars.data.records.jpeg_markers import is_plain, read_header

PICTURE = colours()
COLUMNS = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
PALETTE = b"".join(bytes([255 - 5 * n, n, 5 * n, 0]) for n in range(48))
IN_PALETTE = np.stack([5 * COLUMNS, COLUMNS, 255 - 5 * COLUMNS], axis=-1)
NIBBLES = COLUMNS % 16
IN_SMALL_PALETTE = IN_PALETTE[:, NIBBLES[0]]
INDICES = [row.tobytes() for row in COLUMNS]
HALF_BYTES = [
    bytes(a << 4 | b for a, b in zip(r[::2], [*r[1::2], 0], strict=True)) for r in NIBBLES
]
BGR = [np.ascontiguousarray(row[:, ::-1]).tobytes() for row in PICTURE]
RUNS = b"".join(b"".join(bytes([1, n]) for n in row) + b"\0\0" for row in reversed(INDICES))
SHORT_RUNS = b"".join(b"".join(bytes([2, n]) for n in r) + b"\0\0" for r in reversed(HALF_BYTES))

_BMP32 = {
    "BGRX": (0xFF0000, 0xFF00, 0xFF),
    "XBGR": (0xFF000000, 0xFF0000, 0xFF00),
    "RGBA": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    "ABGR": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
}
_BMP16 = {"555": (0x7C00, 0x3E0, 0x1F), "565": (0xF800, 0x7E0, 0x1F)}
BMPS = {
    "24 bits": (bmp(BGR, 24), PICTURE),
    "24 bits, header of OS/2": (bmp(BGR, 24, header=12), PICTURE),
    "16 bits": (bmp(packed(PICTURE, _BMP16["555"], "<u2"), 16), PICTURE & 0xF8),
    "8 bits": (bmp(INDICES, 8, palette=PALETTE), IN_PALETTE),
    "8 bits, header of OS/2 2": (bmp(INDICES, 8, palette=PALETTE, header=64), IN_PALETTE),
    "4 bits": (bmp(HALF_BYTES, 4, palette=PALETTE[:64]), IN_SMALL_PALETTE),
    "1 bit": (
        encoded(Image.fromarray(PICTURE[..., 0] > 100), "BMP"),
        np.repeat(np.where(PICTURE[..., :1] > 100, 255, 0), 3, axis=-1),
    ),
    "runs of 8 bits": (bmp(RUNS, 8, compression=RLE8, palette=PALETTE), IN_PALETTE),
    "runs of 4 bits": (
        bmp(SHORT_RUNS, 4, compression=RLE4, palette=PALETTE[:64]),
        IN_SMALL_PALETTE,
    ),
    **{
        f"16 bits, masks {name}": (
            bmp(packed(PICTURE, masks, "<u2"), 16, compression=BITFIELDS, masks=masks, header=52),
            PICTURE & 0xF8,
        )
        for name, masks in _BMP16.items()
    },
    **{
        f"32 bits, masks {name}, header of {header}": (
            bmp(packed(PICTURE, masks, "<u4"), 32, compression=3, masks=masks, header=header),
            PICTURE,
        )
        for name, masks in _BMP32.items()
        for header in ((108, 124) if len(masks) == 4 else (52, 108))
    },
}


def assert_shows(data, expected, tolerance=3.0):
    """Asserts that a file becomes a JPEG that shows the expected pixels."""
    image = to_jpeg(data)
    decoded = tf.io.decode_jpeg(image.data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(float) - expected).mean() < tolerance
    return image


@pytest.mark.parametrize("name", BMPS)
def test_a_bmp_keeps_its_colours(name):
    data, expected = BMPS[name]
    # Channels of five bits lose up to seven levels, and JPEG blurs hard edges.
    assert_shows(data, expected, 12 if name.startswith(("1", "4", "runs of 4")) else 3)


@pytest.mark.parametrize(
    ("bits", "masks", "compression"),
    [
        (16, (0x1F, 0x7E0, 0xF800), BITFIELDS),
        (32, (0x3FF00000, 0xFFC00, 0x3FF), BITFIELDS),
        (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), ALPHA_BITFIELDS),
    ],
)
def test_a_bmp_that_no_decoder_takes_right_is_refused_by_its_variant(bits, masks, compression):
    rows = [bytes(WIDTH * bits // 8)] * HEIGHT
    data = bmp(rows, bits, compression=compression, masks=masks, header=56)
    with pytest.raises(BadImage, match=r"^BMP of an unsupported variant: Unsupported BMP"):
        to_jpeg(data)


def as_16_bits(bits):
    """Returns the picture as samples of so many bits, stored without scaling."""
    return PICTURE.astype(np.uint16) * 257 >> (16 - bits)


@pytest.mark.parametrize(
    ("samples", "colour_type", "declared", "kind"),
    [
        (as_16_bits(16), RGB, None, "16-bit PNG"),
        (as_16_bits(16), RGB, b"\x0c\x0c\x0c", "16-bit PNG"),
        (as_16_bits(12), RGB, None, "16-bit PNG with 12-bit values"),
        (as_16_bits(10), RGB, None, "16-bit PNG with 10-bit values"),
        (as_16_bits(8), RGB, None, "16-bit PNG with 8-bit values"),
        (as_16_bits(14), RGB, b"\x0e\x0e\x0e", "16-bit PNG with 14-bit values"),
        # Opaque, in all 16 bits of the alpha channel.
        (np.dstack([as_16_bits(12), np.full((HEIGHT, WIDTH), 65535)]), RGBA, None, "12-bit values"),
    ],
)
def test_a_png_of_16_bits_is_as_bright_as_its_values_mean(samples, colour_type, declared, kind):
    chunks = [(b"sBIT", declared)] if declared else []
    image = assert_shows(png(samples, colour_type, chunks=chunks), PICTURE)
    assert image.reencoded_from.endswith(kind)


def test_a_grey_png_of_16_bits_is_as_bright_as_its_values_mean():
    grey = np.repeat(PICTURE[..., 2:], 3, axis=-1)
    for bits, kind in ((16, "16-bit PNG"), (12, "16-bit PNG with 12-bit values")):
        samples = as_16_bits(bits)[..., 2:]
        assert assert_shows(png(samples, GREY), grey).reencoded_from == kind
        with_alpha = np.dstack([samples, np.full((HEIGHT, WIDTH), 65535)])
        # The depth of the alpha channel may be declared, too.
        data = png(with_alpha, GREY_ALPHA, chunks=[(b"sBIT", bytes([bits, 16]))])
        assert assert_shows(data, grey).reencoded_from == kind


def test_a_small_frame_of_a_gif_keeps_its_place_on_the_canvas():
    frame = np.full((10, 20), 200, np.uint8)
    data = gif_on_canvas(frame, (WIDTH, HEIGHT), (5, 7))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert expected.shape == (HEIGHT, WIDTH, 3)
    assert (expected[7:17, 5:25] == 200).all()
    assert_shows(data, expected, 8)


def test_a_frame_of_a_gif_beyond_its_canvas_is_measured_too():
    frame = np.full((10, 400), 200, np.uint8)
    data = gif_on_canvas(frame, (8, 8), (65500, 0))
    with pytest.raises(BadImage, match=r"^65900 x 10 pixels, more than 65500 on a side"):
        to_jpeg(data)


def test_a_cmyk_jpeg_is_no_negative_with_or_without_the_marker_of_adobe():
    with_marker = encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95)
    place = with_marker.index(b"Adobe") - 4
    without = with_marker[:place] + with_marker[place + 16 :]
    assert_shows(with_marker, PICTURE)
    assert_shows(without, PICTURE)
    as_ycck = with_marker[: place + 15] + b"\x02" + with_marker[place + 16 :]
    expected = np.asarray(Image.open(io.BytesIO(as_ycck)).convert("RGB"))
    assert np.abs(expected.astype(int) - PICTURE).mean() > 30
    assert_shows(as_ycck, expected)


def test_of_an_animation_the_first_image_is_taken():
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "white")]
    options = {"save_all": True, "append_images": others}
    assert_shows(encoded(PICTURE, "PNG", **options), PICTURE)
    assert_shows(encoded(PICTURE, "PNG", default_image=True, **options), PICTURE)
    grey = np.repeat(PICTURE[..., :1], 3, axis=-1)
    assert_shows(encoded(PICTURE[..., 0], "GIF", **options), grey, 8)


def test_transparent_pixels_keep_the_colours_that_are_stored():
    with_alpha = np.dstack([PICTURE, PICTURE[..., 0]])
    assert_shows(encoded(with_alpha, "PNG"), PICTURE)
    assert_shows(encoded(with_alpha, "WEBP", lossless=True, exact=True), PICTURE)
    assert_shows(encoded(PICTURE, "PNG", transparency=tuple(PICTURE[3, 3].tolist())), PICTURE)
    palette = Image.fromarray(PICTURE).quantize(200)
    expected = np.asarray(palette.convert("RGB"))
    for kind in ("PNG", "GIF"):
        assert_shows(
            encoded(palette, kind, transparency=int(palette.getpixel((0, 0)))), expected, 8
        )


def test_an_animated_webp_is_refused_before_it_is_decoded():
    images = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = bytearray(encoded(images[0], "WEBP", save_all=True, append_images=images[1:]))
    assert data[20] & 2
    without_flag = data.copy()
    without_flag[20] &= ~2
    for file in (data, without_flag, data[:60]):
        with pytest.raises(BadImage, match=r"^animated WebP$"):
            to_jpeg(bytes(file))


def test_a_jpeg_of_12_bits_is_refused_by_name():
    data = bytearray(encoded(PICTURE, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = 0xC1, 12
    with pytest.raises(BadImage, match=r"^12-bit JPEG, which no decoder of training reads$"):
        to_jpeg(bytes(data))


# Too large.

_BOMB = (20_000, 20_000)


def _jpeg_bomb(progressive):
    data = bytearray(encoded(PICTURE, "JPEG", progressive=progressive))
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, *_BOMB)
    return bytes(data)


def _webp_bomb(**options):
    data = bytearray(encoded(PICTURE, "WEBP", **options))
    if data[12:16] == b"VP8X":
        struct.pack_into("<HBHB", data, 24, 19_999, 0, 19_999, 0)
    return bytes(data)


_LOSSLESS = b"RIFF\x30\0\0\0WEBPVP8L\x20\0\0\0\x2f" + struct.pack("<I", 16_382 | 16_382 << 14)
BOMBS = {
    "JPEG": (_jpeg_bomb(False), _BOMB),
    "progressive JPEG": (_jpeg_bomb(True), _BOMB),
    "PNG": (png(PICTURE, RGB, depth=8, size=_BOMB), _BOMB),
    "GIF": (gif_on_canvas(PICTURE[..., 0], _BOMB, (0, 0)), _BOMB),
    "BMP": (bmp(BGR, 24, size=_BOMB), _BOMB),
    "BMP, first row on top": (bmp(BGR, 24, size=(20_000, -20_000)), _BOMB),
    "BMP of OS/2": (bmp(BGR, 24, size=_BOMB, header=12), _BOMB),
    "WebP, lossy": (
        bytes(bytearray(encoded(PICTURE, "WEBP")[:26]) + struct.pack("<HH", 16_383, 16_383)),
        (16_383, 16_383),
    ),
    "WebP, lossless": (_LOSSLESS + bytes(30), (16_383, 16_383)),
    "WebP, extended": (_webp_bomb(exif=b"Exif\0\0II*\0"), _BOMB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_is_refused_by_its_header(name, monkeypatch):
    data, (width, height) = BOMBS[name]
    for decoder in ("decode_jpeg", "decode_other"):
        monkeypatch.setattr(f"tf_lars.data.prepare.decoders.{decoder}", None)
    message = f"^{width} x {height} pixels, more than max_image_pixels=178956970$"
    with pytest.raises(BadImage, match=message):
        to_jpeg(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_limit_of_pixels_is_inclusive(kind):
    data = encoded(PICTURE if kind != "GIF" else PICTURE[..., 0], kind)
    assert to_jpeg(data, EncodingSettings(max_image_pixels=47 * 33)).header[:2] == (47, 33)
    with pytest.raises(BadImage, match=r"^47 x 33 pixels, more than max_image_pixels=1550$"):
        to_jpeg(data, EncodingSettings(max_image_pixels=47 * 33 - 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_a_side_longer_than_a_jpeg_may_have_is_refused(kind):
    with pytest.raises(BadImage, match=r"^65501 x 2 pixels, more than 65500 on a side$"):
        to_jpeg(encoded(np.zeros((2, 65501, 3), np.uint8), kind) if kind != "JPEG" else _long())
    if kind != "JPEG":
        longest = to_jpeg(encoded(np.zeros((2, 65500, 3), np.uint8), kind))
        assert tf.image.decode_and_crop_jpeg(longest.data, [0, 65000, 2, 500]).shape == (2, 500, 3)


def _long():
    data = bytearray(encoded(PICTURE, "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 2, 65501)
    return bytes(data)


# Damaged.

_WITH_ALPHA = np.dstack([PICTURE, PICTURE[..., 0]])
WHOLE = {
    "PNG": encoded(_WITH_ALPHA, "PNG"),
    "16-bit PNG": png(as_16_bits(12), RGB, chunks=[(b"sBIT", b"\x0c\x0c\x0c")]),
    "GIF": encoded(Image.fromarray(PICTURE).quantize(64), "GIF"),
    "BMP": BMPS["16 bits, masks 565"][0],
    "compressed BMP": BMPS["runs of 8 bits"][0],
    "WebP": encoded(_WITH_ALPHA, "WEBP", exif=exif_block(6)),
    "lossless WebP": encoded(_WITH_ALPHA, "WEBP", lossless=True),
    "CMYK JPEG": encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("mutations", [300, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_a_damaged_file_becomes_a_whole_jpeg_or_is_refused(name, mutations):
    rng = random.Random(name)
    settings = EncodingSettings(max_image_pixels=1_000_000, exif="apply")
    for _ in range(mutations):
        data = bytearray(WHOLE[name])
        for _ in range(rng.choice((1, 1, 3))):
            place = rng.randrange(100 if rng.random() < 0.5 else len(data))
            data[place] = rng.choice((0, 1, 255, rng.randrange(256), data[place] ^ 1))
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            image = to_jpeg(bytes(data), settings)
        except BadImage:
            continue
        assert is_plain(image.data)
        assert image.header == read_header(image.data)

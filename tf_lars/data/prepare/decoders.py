"""Decoders of image files, each used for the formats that it decodes right.

Compared on files of every variant, TensorFlow and Pillow agree on grey and colour JPEG and on PNG.
TensorFlow checks more of them: PNG's checksums, for one. Of the other formats it decodes some
wrongly, without an error:

- BMP: masks in any order other than blue, green, red are ignored, and indices into a palette come
  out as grey levels; OS/2 headers, 1, 4 and 16 bits and run lengths are refused;
- GIF: the first frame comes out without its canvas, and transparent pixels black;
- WebP: an animation overwrites its memory;
- CMYK JPEG: without Adobe's marker, the negative comes out; browsers and Pillow expect the inverted
  values that Adobe writes in every file.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tf_lars.data.prepare.image_header import BadImage, ImageHeader, damaged, png_chunks

_PILLOW_FORMATS = {"GIF": "GIF", "BMP": "BMP", "WebP": "WEBP"}
_GREY_AND_ALPHA, _COLOUR_AND_ALPHA = 2, 4
_GREY_TYPES = (0, 4)  # PNG's colour types without and with alpha
# Depths of cameras and scanners that store their values in 16 bits without scaling them.
_NARROW_DEPTHS = (8, 10, 12)


class Decoded(NamedTuple):
    """Pixels as uint8 RGB of shape [height, width, 3], and the format in words for the report."""

    pixels: np.ndarray
    kind: str


def decode_jpeg(data: bytes, **options: Any) -> np.ndarray:
    """Returns the pixels of a common JPEG file; `options` are those of `tf.io.decode_jpeg`.

    Raises:
        BadImage: The file does not decode to its end.
    """
    import tensorflow as tf

    return _tensorflow(tf.io.decode_jpeg, data, "JPEG", **options)


def decode_other(
    data: bytes, header: ImageHeader, check_size: Callable[[int, int], None]
) -> Decoded:
    """Returns the image of any file but a common JPEG; of an animation, the first.

    An alpha channel is dropped.

    Args:
        data: Content of the file.
        header: Its header.
        check_size: Raises BadImage if an image of this width and height is too large. The first
            frame of a GIF may be larger than its canvas.

    Raises:
        BadImage: The file does not decode to its end, or is of an unsupported variant.
    """
    if header.kind == "PNG":
        return _png(data)
    return Decoded(_pillow(data, header.kind, check_size), header.kind)


def _png(data: bytes) -> Decoded:
    import tensorflow as tf

    if data[24] != 16:
        return Decoded(_colours(_tensorflow(tf.io.decode_png, data, "PNG"), repeat=True), "PNG")
    samples = _tensorflow(tf.io.decode_png, data, "PNG", dtype=tf.uint16)
    samples = _colours(samples, repeat=False)
    depth = _depth(data, int(samples.max()))
    pixels = _colours((samples >> (depth - 8)).astype(np.uint8), repeat=True)
    return Decoded(pixels, "16-bit PNG" + ("" if depth == 16 else f" with {depth}-bit values"))


def _colours(pixels: np.ndarray, repeat: bool) -> np.ndarray:
    """Returns an image without alpha, and grey as three equal channels if `repeat`."""
    if pixels.shape[-1] in (_GREY_AND_ALPHA, _COLOUR_AND_ALPHA):
        pixels = pixels[..., :-1]
    return np.repeat(pixels, 3, axis=-1) if repeat and pixels.shape[-1] == 1 else pixels


def _depth(data: bytes, largest: int) -> int:
    """Returns the number of bits that the samples of a 16-bit PNG use.

    PNG demands values that are scaled to 16 bits, but values from sensors of fewer bits are often
    stored as they are, and would come out nearly black. They are recognized by a largest sample
    within the bits that the file declares as significant or, without a declaration, within 12 bits:
    a true 16-bit image that dark would keep at most 16 of 256 levels.
    """
    declared = next((content for name, content in png_chunks(data) if name == b"sBIT"), b"")
    significant = max(declared[: 1 if data[25] in _GREY_TYPES else 3], default=16)
    if 8 <= significant < 16 and largest < 1 << significant:
        return significant
    return next((depth for depth in _NARROW_DEPTHS if largest < 1 << depth), 16)


def _tensorflow(decode: Callable[..., Any], data: bytes, kind: str, **options: Any) -> np.ndarray:
    import tensorflow as tf

    try:
        return decode(data, **options).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise damaged(kind) from error


def _pillow(data: bytes, kind: str, check_size: Callable[[int, int], None]) -> np.ndarray:
    from PIL import Image

    with warnings.catch_warnings():
        # On images that `check_size` allows, and on palettes with an alpha channel.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=[_PILLOW_FORMATS.get(kind, "JPEG")]) as image:
                check_size(*image.size)
                return np.asarray(image.convert("RGB"))
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # damaged files make Pillow raise errors of any kind
            if str(error).startswith("Unsupported"):
                raise BadImage(f"{kind} of an unsupported variant: {error}") from error
            raise damaged(kind) from error

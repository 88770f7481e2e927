"""JPEG headers, and any supported image file as a JPEG that training can decode.

TensorFlow's fused `decode_and_crop_jpeg` accepts grey and colour JPEG files only, and notices a
truncated file only when the crop reaches the damage; so both are settled once, at preparation.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

JPEG_QUALITY = 95
"""Quality of the images that must be encoded again."""

_SIGNATURES = {
    "PNG": (0, b"\x89PNG\r\n\x1a\n"),
    "GIF": (0, b"GIF8"),
    "BMP": (0, b"BM"),
    "WebP": (8, b"WEBP"),
}
# Huffman-coded baseline, extended sequential and progressive (ITU-T T.81, table B.1).
_COMMON_FRAMES = (0xC0, 0xC1, 0xC2)
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


class BadImage(ValueError):
    """A file that is no image, or a damaged one; the message is the reason in a few words."""


class JpegHeader(NamedTuple):
    """The frame header of a JPEG file: sizes in pixels, bits per sample, kind of frame."""

    width: int
    height: int
    channels: int
    precision: int
    frame: int

    @property
    def is_common(self) -> bool:
        """Whether every decoder of the training pipeline takes the file as it is."""
        return self.frame in _COMMON_FRAMES and self.precision == 8 and self.channels in (1, 3)


class EncodedImage(NamedTuple):
    """A grey or colour JPEG file, its header, and what it was if it had to be encoded again."""

    data: bytes
    header: JpegHeader
    reencoded_from: str | None


def read_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG file, from its first markers; None if it has none.

    Reference: ITU-T T.81, annex B.
    """
    for marker, position in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            return _frame_header(data, position)
    return None


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG file with a header lacks its scan, or the end marker after its last scan."""
    scan = next(
        (position for marker, position in _segments(data) if marker == _START_OF_SCAN), None
    )
    # Within the data of a scan, 0xff is followed by 0 or a restart marker.
    return scan is None or data.rfind(b"\xff\xd9", scan) < data.rfind(b"\xff\xda", scan)


def to_jpeg(data: bytes) -> EncodedImage:
    """Checks an image file and returns it as a grey or colour JPEG.

    Grey and three-component JPEG files pass unchanged after a decode at 1/8 scale, which reads
    every coefficient. CMYK and unusual JPEG, PNG, GIF (the first frame), BMP and, where
    TensorFlow decodes it, WebP are encoded again as RGB JPEG of quality 95; an alpha channel is
    dropped. An EXIF orientation is ignored, as is usual with ImageNet.

    Raises:
        BadImage: No image of these formats, or one that cannot be decoded to its end.
    """
    header = read_header(data)
    if header is not None and header.is_common:
        _decode(data, "JPEG", ratio=8, channels=1)
        return EncodedImage(data, header, None)
    kind = _kind(data, header)
    pixels = _pixels(data, kind)
    height, width, channels = pixels.shape
    header = JpegHeader(width, height, channels, precision=8, frame=_COMMON_FRAMES[0])
    return EncodedImage(_encode(pixels), header, kind)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers from the start of a JPEG file to its first scan, and where each is."""
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte before a marker
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            yield marker, position
            if marker in (_START_OF_SCAN, _END_OF_IMAGE):
                return
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _frame_header(data: bytes, position: int) -> JpegHeader | None:
    frame = data[position + 4 : position + 10]
    if len(frame) < 6:
        return None
    height = int.from_bytes(frame[1:3], "big")
    width = int.from_bytes(frame[3:5], "big")
    if not (height and width and frame[5]):
        return None
    return JpegHeader(width, height, frame[5], precision=frame[0], frame=data[position + 1])


def _kind(data: bytes, header: JpegHeader | None) -> str:
    if header is not None:
        return "CMYK JPEG" if header.channels == 4 else "unusual JPEG"
    for kind, (offset, signature) in _SIGNATURES.items():
        if data.startswith(signature, offset):
            return kind
    if not data:
        raise BadImage("empty file")
    raise BadImage("truncated or damaged JPEG" if data[:2] == b"\xff\xd8" else "not an image")


def _pixels(data: bytes, kind: str) -> np.ndarray:
    """The image as uint8 RGB of shape [height, width, 3]."""
    if kind.endswith("JPEG"):
        return _decode(data, kind, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    pixels = _decode(data, kind).numpy()
    if kind == "BMP" and pixels.shape[-1] == 1:
        # TensorFlow returns the palette's indices as if they were grey levels.
        return _bmp_palette(data)[pixels[..., 0]]
    if pixels.shape[-1] < 3:
        return np.repeat(pixels[..., :1], 3, axis=-1)
    return pixels[..., :3]


def _bmp_palette(data: bytes) -> np.ndarray:
    """The colour table of an 8-bit BMP as uint8 RGB of shape [256, 3]."""
    start = 14 + int.from_bytes(data[14:18], "little")
    end = int.from_bytes(data[10:14], "little")
    table = np.frombuffer(data[start:end][:1024], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    entries = table[: len(table) // 4 * 4].reshape(-1, 4)
    palette[: len(entries)] = entries[:, 2::-1]
    return palette


def _decode(data: bytes, kind: str, **options: Any) -> Any:
    import tensorflow as tf

    try:
        if kind.endswith("JPEG"):
            return tf.io.decode_jpeg(data, **options)
        return tf.io.decode_image(data, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise BadImage(f"truncated or damaged {kind}") from error


def _encode(pixels: np.ndarray) -> bytes:
    import tensorflow as tf

    return tf.io.encode_jpeg(pixels, format="rgb", quality=JPEG_QUALITY).numpy()

"""Format and size of image files, read from their headers without decoding anything.

References: ISO/IEC 15948 (PNG), GIF89a, Microsoft's BITMAPINFOHEADER and OS/2's BITMAPCOREHEADER
(BMP), RFC 9649 (WebP).
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tf_lars.data.records import jpeg_markers
from tf_lars.data.records.jpeg_markers import JpegHeader

_ANIMATION_FLAG = 0x02
_ANIMATION_CHUNKS = {b"ANIM", b"ANMF"}


class BadImage(ValueError):
    """A file that is not an image, or a damaged one; the message is the reason in a few words."""


class ImageHeader(NamedTuple):
    """Header of an image file.

    Args:
        kind: "JPEG", "CMYK JPEG", "unusual JPEG", "PNG", "GIF", "BMP" or "WebP".
        width: Width in pixels, of the canvas if there is one.
        height: Height in pixels.
        jpeg: Frame header of a JPEG file.
    """

    kind: str
    width: int
    height: int
    jpeg: JpegHeader | None = None


def read(data: bytes) -> ImageHeader:
    """Returns the header of an image file.

    Raises:
        BadImage: The file is not an image of these formats, its header is damaged, or it is a JPEG
            of other than 8 bits or an animated WebP, which are not supported.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    for kind, (offset, signature, size) in _FORMATS.items():
        if not data.startswith(signature, offset):
            continue
        try:
            width, height = size(data)
        except struct.error as error:
            raise damaged(kind) from error
        if width <= 0 or height <= 0:
            raise damaged(kind)
        return ImageHeader(kind, width, height)
    raise BadImage("not an image" if data else "empty file")


def damaged(kind: str) -> BadImage:
    """Returns the error for a file that begins as an image but does not decode to its end."""
    return BadImage(f"truncated or damaged {kind}")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type and the content of each chunk of a PNG file."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += 12 + length  # with the checksum


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type and the content of each chunk of a WebP file."""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _jpeg(data: bytes) -> ImageHeader:
    header = jpeg_markers.read_header(data)
    if header is None:
        raise damaged("JPEG")
    if header.precision != 8:
        raise BadImage(f"{header.precision}-bit JPEG, which no decoder of training reads")
    kind = "JPEG" if header.is_common else "unusual JPEG"
    return ImageHeader(
        "CMYK JPEG" if header.channels == 4 else kind, header.width, header.height, header
    )


def _png(data: bytes) -> tuple[int, int]:
    width, height, _, _ = struct.unpack_from(">IIBB", data, 16)  # with depth and colour type
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, 6)


def _bmp(data: bytes) -> tuple[int, int]:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    return width, abs(height)  # negative if the first row is on top


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        flags, width, width_high, height, height_high = struct.unpack_from("<B3xHBHB", data, 20)
        names = {name for name, _ in webp_chunks(data)}
        if flags & _ANIMATION_FLAG or names & _ANIMATION_CHUNKS:
            raise BadImage("animated WebP")
        return 1 + (width_high << 16 | width), 1 + (height_high << 16 | height)
    if kind == b"VP8L":  # after a signature byte, 14 bits each
        _, bits = struct.unpack_from("<BI", data, 20)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)  # after the frame tag and a start code
    return width & 0x3FFF, height & 0x3FFF


_FORMATS: dict[str, tuple[int, bytes, Callable[[bytes], tuple[int, int]]]] = {
    "PNG": (0, b"\x89PNG\r\n\x1a\n", _png),
    "GIF": (0, b"GIF8", _gif),
    "BMP": (0, b"BM", _bmp),
    "WebP": (8, b"WEBP", _webp),
}

"""EXIF orientation of image files.

Reference: CIPA DC-008 (EXIF 2.32), tag 0x0112. Orientation n of 1 to 8 says where the first row and
column of the stored pixels belong; 1 is upright, 6 and 8 come from cameras held on their side.
"""

import struct
from collections.abc import Callable, Mapping

import numpy as np

from tf_lars.data.prepare.image_header import png_chunks, webp_chunks
from tf_lars.data.records import jpeg_markers

UPRIGHT = 1
_ORIENTATION = 0x0112
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def orientation(data: bytes, kind: str) -> int:
    """Returns the orientation of an image file, from 1 to 8; 1 if it has none or an invalid one.

    Args:
        data: Content of the file.
        kind: Format, as in `ImageHeader`.
    """
    block = _block(data, kind)
    if not block:
        return UPRIGHT
    try:
        found = _read_orientation(block.removeprefix(jpeg_markers.EXIF_SIGNATURE))
    except struct.error:  # the block ends early
        return UPRIGHT
    return found if found in _TURNS else UPRIGHT


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an image of shape [height, width, channels] upright."""
    return pixels if orientation == UPRIGHT else _TURNS[orientation](pixels)


def _block(data: bytes, kind: str) -> bytes:
    if kind.endswith("JPEG"):
        return jpeg_markers.exif(data)
    if kind == "PNG":
        return next((content for name, content in png_chunks(data) if name == b"eXIf"), b"")
    if kind == "WebP":
        return next((content for name, content in webp_chunks(data) if name == b"EXIF"), b"")
    return b""


def _read_orientation(tiff: bytes) -> int:
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(count):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
        if tag == _ORIENTATION:
            return value if kind == _SHORT else UPRIGHT
    return UPRIGHT

"""Markers, headers and tables of JPEG files, read without decoding them.

Reference: ITU-T T.81, annex B; errors are distinguished from warnings as in libjpeg.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_HUFFMAN_TABLES = 0xC4
_NOT_FRAMES = (_HUFFMAN_TABLES, 0xC8, 0xCC)
_START_OF_IMAGE = 0xD8
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_QUANTIZATION_TABLES = 0xDB
_RESTART_INTERVAL = 0xDD
_EXIF, EXIF_SIGNATURE = 0xE1, b"Exif\0\0"
_COMMENTS = (*range(0xE0, 0xF0), 0xFE)
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
# In a scan, 0xFF is followed by zero (the value itself), a fill byte or a restart; otherwise by the
# marker that ends it.
_SCAN_END = re.compile(rb"\xff([^\x00\xff])")
_SCAN_END_AFTER_RESTARTS = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
LARGEST_SIDE = 65500
"""Largest side in pixels that libjpeg reads and writes."""
# Beyond this size, decoders have different limits.
_MOST_PIXELS = 1 << 27


class JpegHeader(NamedTuple):
    """Frame header of a JPEG file: sizes in pixels, bits per sample, type of frame."""

    width: int
    height: int
    channels: int
    precision: int
    frame: int

    @property
    def is_common(self) -> bool:
        """Whether every decoder of the training pipeline accepts the file as it is.

        True for Huffman-coded baseline, extended sequential and progressive files with one (grey)
        or three components (T.81, table B.1).
        """
        return (
            self.frame in (_BASELINE, _EXTENDED, _PROGRESSIVE)
            and self.precision == 8
            and self.channels in (1, 3)
        )


def read_header(data: bytes) -> JpegHeader | None:
    """Returns the header of a JPEG file, from its first markers; None if it has no header."""
    for marker, start, end in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            frame = data[start : min(end, start + 6)]
            if len(frame) < 6:
                return None
            precision, height, width, channels = struct.unpack(">BHHB", frame)
            if not (height and width and channels):
                return None
            return JpegHeader(width, height, channels, precision, marker)
    return None


def exif(data: bytes) -> bytes:
    """Returns the EXIF block of a JPEG file, which has the structure of a TIFF; empty if none."""
    for marker, start, end in _segments(data):
        if marker == _EXIF and data.startswith(EXIF_SIGNATURE, start):
            return data[start + len(EXIF_SIGNATURE) : end]
    return b""


def is_plain(data: bytes) -> bool:
    """Returns whether the structure of a file guarantees that a decoder reads it to its end.

    True for a sequential file with valid headers and tables whose only scan is followed by the end
    marker, as in nearly every JPEG. libjpeg fails on nothing else: invalid codes and a scan that is
    too short are warnings. False means only that a decoder must judge.
    """
    quantization: set[int] = set()
    huffman: set[int] = set()
    frame: dict[int, int] = {}
    scan_end = _SCAN_END
    for marker, start, end in _segments(data):
        segment = data[start:end]
        if marker in _COMMENTS:
            continue
        if marker == _QUANTIZATION_TABLES and (tables := _quantization_tables(segment)):
            quantization |= tables
        elif marker == _HUFFMAN_TABLES and (tables := _huffman_tables(segment)):
            huffman |= tables
        elif marker in (_BASELINE, _EXTENDED) and not frame and (frame := _components(segment)):
            continue
        elif marker == _RESTART_INTERVAL and len(segment) == 2:
            scan_end = _SCAN_END_AFTER_RESTARTS
        else:
            if (
                marker != _START_OF_SCAN
                or not _is_scan(segment, frame, huffman)
                or not quantization.issuperset(frame.values())
            ):
                return False
            after = scan_end.search(data, end)
            return after is not None and after[1][0] == _END_OF_IMAGE
    return False


def is_cut_short(data: bytes) -> bool:
    """Returns whether a file with a header lacks a scan, or the end marker after its last scan."""
    for marker, start, _ in _segments(data):
        if marker == _START_OF_SCAN:
            # Within the data of a scan, 0xff is followed by 0 or a restart marker.
            position = start - 4  # the position of the marker itself
            return data.rfind(b"\xff\xd9", position) < data.rfind(b"\xff\xda", position)
    return True


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the markers up to the first scan, with the start and end of each one's content.

    Ends early at what is not a marker, and at a second start of image, which no decoder accepts.
    """
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte before a marker
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker == _START_OF_IMAGE:
            return
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            yield marker, position + 4, end
            if marker in (_START_OF_SCAN, _END_OF_IMAGE):
                return
            position = end


def _quantization_tables(segment: bytes) -> set[int]:
    """Returns the numbers of the tables; an empty set if they are invalid."""
    numbers = set()
    position = 0
    while position < len(segment):
        precision, number = divmod(segment[position], 16)
        position += 1 + 64 * (precision + 1)
        if precision > 1 or number > 3:
            return set()
        numbers.add(number)
    return numbers if position == len(segment) else set()


def _huffman_tables(segment: bytes) -> set[int]:
    """Returns the numbers of the tables, plus 16 for AC coefficients; empty if invalid."""
    numbers = set()
    position = 0
    while position + 17 < len(segment):
        number = segment[position]
        counts = segment[position + 1 : position + 17]
        values = segment[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        code = 0
        for length, count in enumerate(counts, start=1):
            code += count
            # The code that consists only of ones is reserved.
            if count and code >= 1 << length:
                return set()
            code <<= 1
        # DC values count bits.
        if number & 0xEC or not values or (number < 16 and max(values) > 15):
            return set()
        numbers.add(number)
    return numbers if position == len(segment) else set()


def _components(segment: bytes) -> dict[int, int]:
    """Returns each component's quantization table, in order; empty if the frame is unusual."""
    if len(segment) not in (6 + 3, 6 + 9):
        return {}
    precision, height, width, count = struct.unpack(">BHHB", segment[:6])
    samplings = [divmod(factors, 16) for factors in segment[7::3]]
    largest = [max(sizes) for sizes in zip(*samplings, strict=True)]
    if (
        precision == 8
        and 6 + 3 * count == len(segment)
        and 0 < height <= LARGEST_SIDE
        and 0 < width <= LARGEST_SIDE
        and height * width <= _MOST_PIXELS
        # Each factor is at most four and divides the largest; a block holds at most ten units.
        and all(1 <= h <= 4 and 1 <= v <= 4 for h, v in samplings)
        and all(largest[0] % h == 0 and largest[1] % v == 0 for h, v in samplings)
        and sum(h * v for h, v in samplings) <= 10
        and len(set(segment[6::3])) == count
    ):
        return dict(zip(segment[6::3], segment[8::3], strict=True))
    return {}


def _is_scan(segment: bytes, frame: dict[int, int], huffman: set[int]) -> bool:
    """Returns whether the scan's header lists all components of the frame and existing tables."""
    count = len(frame)
    if len(segment) != 4 + 2 * count or segment[0] != count:
        return False
    tables = segment[2 : 1 + 2 * count : 2]
    return (
        list(segment[1 : 1 + 2 * count : 2]) == list(frame)
        and all(table >> 4 in huffman and 16 + (table & 15) in huffman for table in tables)
        # All coefficients in one scan.
        and segment[-3:] == b"\x00\x3f\x00"
    )

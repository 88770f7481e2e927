"""Image files of rare variants, made byte by byte: BMP, PNG, GIF and EXIF blocks."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 47, 33
RLE8, RLE4, BITFIELDS, ALPHA_BITFIELDS = 1, 2, 3, 6
"""Kinds of compression of a BMP."""
GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""Colour types of a PNG."""


def colours(width=WIDTH, height=HEIGHT):
    """Returns a smooth colour picture, which survives JPEG compression, as uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, 255 - x * 2 - y], axis=-1).astype(np.uint8)


def encoded(image, kind, **options):
    """Returns an image of Pillow's, or an array, as the content of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def bmp(rows, bits, *, compression=0, masks=(), palette=b"", header=40, size=(WIDTH, HEIGHT)):
    """Returns a BMP file.

    Args:
        rows: Content of the rows from the top; or all pixels as bytes, if compressed.
        bits: Bits per pixel.
        compression: Kind of compression.
        masks: Bit masks of red, green, blue and, if there is one, alpha.
        palette: Blue, green, red and a zero for each colour.
        header: Length of the information header, which decides its kind.
        size: Width and height.
    """
    pixels = rows
    if not isinstance(rows, bytes):
        pixels = b"".join(row + bytes(-len(row) % 4) for row in reversed(rows))
    width, height = size
    places = b"".join(struct.pack("<I", mask) for mask in masks)
    if header == 12:
        information = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        information = struct.pack(
            "<IiiHHIIiiII", header, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0
        )
        information = (information + places).ljust(header, b"\0")
    start = 14 + len(information) + len(palette)
    file_header = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return file_header + information + palette + pixels


def packed(pixels, masks, dtype):
    """Returns rows of pixels whose channels lie where the masks say, at most 8 bits each."""
    values = np.zeros(pixels.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        bits = (mask >> shift).bit_length()
        level = pixels[..., channel].astype(np.uint32) if channel < 3 else np.uint32(200)
        values |= level >> (8 - bits) << shift
    return [row.astype(dtype).tobytes() for row in values]


def png(samples, colour_type, *, depth=16, chunks=(), size=None):
    """Returns a PNG file of samples of 8 or 16 bits, with other chunks before the pixels."""
    rows = samples.astype(">u2" if depth == 16 else np.uint8)
    width, height = size or (rows.shape[1], rows.shape[0])
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)),
        *chunks,
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*part) for part in parts)


def _png_chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def gif_on_canvas(frame, canvas, place):
    """Returns a GIF of a grey frame at a place of a larger, or smaller, canvas."""
    data = bytearray(encoded(Image.fromarray(frame), "GIF", optimize=False))
    struct.pack_into("<HH", data, 6, *canvas)
    colour_table = 3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0
    descriptor = data.index(b"\x2c", 13 + colour_table)
    struct.pack_into("<HH", data, descriptor + 1, *place)
    return bytes(data)


def exif_block(orientation, order="<"):
    """Returns an EXIF block without its signature: a camera's name and an orientation."""
    name = b"self-made\0"
    entries = [
        struct.pack(f"{order}HHII", 0x010F, 2, len(name), 8 + 2 + 24 + 4),
        struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0),
    ]
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(f"{order}IH", 8, len(entries))
    return magic + start + b"".join(entries) + bytes(4) + name


def with_exif(jpeg, block):
    """Returns a JPEG file with an EXIF block behind its first segment."""
    segment = b"Exif\0\0" + block
    first = 4 + int.from_bytes(jpeg[4:6], "big")
    length = struct.pack(">H", len(segment) + 2)
    return jpeg[:first] + b"\xff\xe1" + length + segment + jpeg[first:]

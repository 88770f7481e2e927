"""JPEG files with damaged headers, to find what passes a check and does not decode."""

import io

import numpy as np
from PIL import Image

_VALUES = (0, 1, 2, 3, 4, 8, 17, 34, 63, 64, 127, 128, 255, 0xC0, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB)
_SAMPLINGS = (0x11, 0x12, 0x21, 0x22, 0x13, 0x31, 0x14, 0x41, 0x32, 0x23, 0x42, 0x44)
# Markers that mean much in the wrong place, and reserved ones.
_MARKERS = (
    0x01,
    0xD0,
    0xD7,
    0xD8,
    0xD9,
    0xDC,
    0xCC,
    0x02,
    0xF0,
    0xFE,
    0xC0,
    0xC1,
    0xC2,
    0xC9,
    0xDA,
)
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00"  # and the kind of transform
_KINDS = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 2},
    "restart rows": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
    "grey": {},
    "grey progressive": {"progressive": True},
}
_SIZES = ((40, 24), (1, 1), (17, 35), (130, 90))


def whole_files():
    """Returns small JPEG files of all usual kinds and some sizes."""
    files = []
    for width, height in _SIZES:
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x * 5, y * 9, 255 - x * 2 - y * 3], axis=-1).astype(np.uint8)
        for name, options in _KINDS.items():
            image = Image.fromarray(pixels).convert("L" if name.startswith("grey") else "RGB")
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90, **options)
            files.append(buffer.getvalue())
    return files


def parts(data):
    """Returns the start of image, each segment up to the first scan, and the rest of a file."""
    found, position, marker = [data[:2]], 2, 0
    while marker != 0xDA:
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found.append(data[position:end])
        position = end
    return [*found, data[position:]]


def mutated(rng, files):
    """Returns one of the files with one to three faults, most of them in its headers."""
    pieces = parts(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        fault = rng.choice(_FAULTS)
        place = rng.randrange(len(pieces) - (len(pieces) > 1 and rng.random() < 0.7))
        pieces = fault(rng, pieces, place, files)
    return b"".join(pieces)


def _replaced(pieces, place, *new):
    return [*pieces[:place], *new, *pieces[place + 1 :]]


def _set_byte(rng, pieces, place, files):
    piece = bytearray(pieces[place])
    if piece:
        at = rng.randrange(len(piece))
        flipped = piece[at] ^ 1 << rng.randrange(8)
        piece[at] = rng.choice((rng.choice(_VALUES), rng.randrange(256), flipped))
    return _replaced(pieces, place, bytes(piece))


def _set_frame(rng, pieces, place, files):
    """Changes the sampling of some components, or another byte of the frame header."""
    for place, piece in enumerate(pieces):
        if len(piece) > 12 and piece[0] == 0xFF and piece[1] in (0xC0, 0xC1, 0xC2):
            new = bytearray(piece)
            if rng.random() < 0.6:
                for at in range(11, len(new), 3):
                    new[at] = rng.choice((new[at], *_SAMPLINGS))
            else:
                new[rng.randrange(4, len(new))] = rng.choice((*_VALUES, rng.randrange(256)))
            return _replaced(pieces, place, bytes(new))
    return pieces


def _duplicate(rng, pieces, place, files):
    other = rng.randrange(len(pieces))
    return [*pieces[:other], pieces[place], *pieces[other:]]


def _remove(rng, pieces, place, files):
    return _replaced(pieces, place) if len(pieces) > 1 else pieces


def _swap(rng, pieces, place, files):
    other = rng.randrange(len(pieces))
    new = list(pieces)
    new[place], new[other] = new[other], new[place]
    return new


def _insert_marker(rng, pieces, place, files):
    marker = bytes([0xFF, rng.choice((*_MARKERS, rng.randrange(256)))])
    content = rng.choice((b"", b"\x00\x02", b"\x00\x04\x00\x00"))
    return [*pieces[:place], marker + content, *pieces[place:]]


def _insert_adobe(rng, pieces, place, files):
    return [*pieces[:place], _ADOBE + bytes([rng.choice((0, 1, 2, 3, 255))]), *pieces[place:]]


def _change_marker(rng, pieces, place, files):
    piece = pieces[place]
    if piece[:1] != b"\xff":
        return pieces
    marker = rng.choice((*_MARKERS, rng.randrange(0xC0, 256)))
    return _replaced(pieces, place, piece[:1] + bytes([marker]) + piece[2:])


def _from_other_file(rng, pieces, place, files):
    return _replaced(pieces, place, rng.choice(parts(rng.choice(files))))


def _cut(rng, pieces, place, files):
    piece = pieces[place]
    start = rng.randrange(len(piece) + 1)
    if rng.random() < 0.5:
        return [*pieces[:place], piece[:start]]
    return _replaced(pieces, place, piece[:start] + piece[start + rng.randrange(1, 9) :])


def _insert_bytes(rng, pieces, place, files):
    piece = pieces[place]
    start = rng.randrange(len(piece) + 1)
    noise = rng.choice((rng.randbytes(rng.randrange(1, 9)), b"\xff", b"\x00\x00"))
    return _replaced(pieces, place, piece[:start] + noise + piece[start:])


def _marker_in_scan(rng, pieces, place, files):
    return [*pieces[:-1], *_insert_marker(rng, _halves(rng, pieces[-1]), 1, files)]


def _halves(rng, piece):
    start = rng.randrange(len(piece) + 1)
    return [piece[:start], piece[start:]]


_FAULTS = (
    _set_byte,
    _set_byte,
    _set_frame,
    _duplicate,
    _remove,
    _swap,
    _insert_marker,
    _insert_adobe,
    _change_marker,
    _from_other_file,
    _cut,
    _insert_bytes,
    _marker_in_scan,
)

"""Temporary copies of shards that have no random access: compressed as a whole, or remote."""

import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from absl import logging

from tf_lars import files
from tf_lars.data.records.stall_watch import STALL_WATCH
from tf_lars.errors import InputError

SHARE_OF_SPACE = 0.8
"""Share of the free space for temporary files that one copy may take."""

_CHUNK = 1 << 20
_PIECE = 4 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # the header tells which


class Damaged(ValueError):
    """A compressed stream that is cut short or damaged."""


class ShardCopy(NamedTuple):
    """A copy of a shard, without compression.

    Attributes:
      file: Temporary file, which vanishes when it is closed.
      num_bytes: Size of the original.
      sha256: SHA-256 (hex) of the original.
      damage: What is wrong with its compression, or ""; the copy ends there.
    """

    file: IO[bytes]
    num_bytes: int
    sha256: str
    damage: str


def is_compressed(head: bytes) -> bool:
    """Returns whether a file begins as GZIP or ZLIB do.

    The first length in a TFRecord file may look like that by chance; its checksum tells.
    """
    gzip = head.startswith(b"\x1f\x8b\x08")
    return gzip or (head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0)


def copy(path: str, compressed: bool) -> ShardCopy:
    """Returns a copy of a shard in the folder for temporary files (TMPDIR).

    Raises:
      InputError: The shard cannot be read, or the copy would take more than `SHARE_OF_SPACE`.
    """
    folder = tempfile.gettempdir()
    logging.log_first_n(
        logging.WARNING, "Copying compressed or remote shards, such as %s, to %s.", 1, path, folder
    )
    limit = SHARE_OF_SPACE * shutil.disk_usage(folder).free
    digest, num_bytes, damage = hashlib.sha256(), 0, ""

    def chunks() -> Iterator[bytes]:
        nonlocal num_bytes
        for chunk in _read(path):
            digest.update(chunk)
            num_bytes += len(chunk)
            yield chunk

    with files.writing(folder):
        file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        for data in inflate(chunks()) if compressed else chunks():
            with files.writing(folder):
                file.write(data)
            if file.tell() > limit:
                raise InputError(
                    "The temporary copy of a compressed or remote shard may take at most "
                    f"{SHARE_OF_SPACE:.0%} of the free space. Received: {path}, which takes more "
                    f"than {limit / 1e9:,.1f} GB in {folder}. Set TMPDIR to a folder with more "
                    "space, or store the shard without compression."
                )
    except Damaged as error:
        damage = str(error)
    with files.writing(folder):
        file.flush()
    return ShardCopy(file, num_bytes, digest.hexdigest(), damage)


def inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the content of a GZIP or ZLIB stream, of one member or of several in a row.

    Raises:
      Damaged: The stream is cut short or damaged; what precedes the damage has been yielded.
    """
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    for chunk in chunks:
        data = b""
        while chunk or len(data) == _PIECE:
            if inflater.eof:
                chunk = chunk.lstrip(b"\0")  # padding
                if not chunk:
                    break
                inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
            before = inflater.copy()
            try:
                data = inflater.decompress(chunk, _PIECE)
            except zlib.error as error:
                yield from _up_to_the_damage(before, chunk)
                raise Damaged(str(error)) from error
            yield data
            chunk = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not inflater.eof:
        raise Damaged("the compressed data is cut short")


def _up_to_the_damage(inflater: Any, chunk: bytes) -> Iterator[bytes]:
    for byte in chunk:
        try:
            yield inflater.decompress(bytes([byte]))
        except zlib.error:
            return


def _read(path: str) -> Iterator[bytes]:
    with files.reading(path), files.open_file(path, "rb") as file:
        while True:
            with STALL_WATCH.reading(path):
                chunk = file.read(_CHUNK)
            if not chunk:
                return
            yield chunk

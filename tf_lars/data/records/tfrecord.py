"""TFRecord files: random access to records, each checked against its CRC, and writing.

A shuffled epoch is a permutation of record numbers, so records are read by number: nothing is
skipped, there is no shuffle buffer, and a damaged record is known by file and position. A read
takes as much CPU time as TensorFlow's sequential reader needs for the same record.

A shard that is compressed as a whole, or remote, has no random access: it is copied to a temporary
file when its records are first needed.
"""

import itertools
import os
import resource
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import IO

import google_crc32c
import numpy as np

from tf_lars import files
from tf_lars.data.records import shard_copy
from tf_lars.data.records.dataset_info import ShardInfo
from tf_lars.data.records.example import BadRecord
from tf_lars.data.records.stall_watch import STALL_WATCH
from tf_lars.errors import InputError

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of those eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data
_FRAME = _HEADER.size + _FOOTER.size


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord files store: CRC-32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class DamagedShard(InputError):
    """A file that is not a sequence of whole records.

    Attributes:
      record: Number of the first record that is not whole, from 0.
    """

    def __init__(self, message: str, record: int = 0):
        super().__init__(message)
        self.record = record


class ShardFile:
    """A TFRecord file, plain or compressed (GZIP or ZLIB), whose records are read by number.

    Args:
      path: Path of the file.
      num_examples: Number of records that it must hold; None for any.

    Raises:
      InputError: The file cannot be opened; or, unless it is compressed or remote, any error of
        `open`.
    """

    def __init__(self, path: str, num_examples: int | None = None):
        self.path = path
        self._expected = num_examples
        self._opening = threading.Lock()
        self._offsets: np.ndarray | None = None
        self._hash: tuple[int, str] | None = None
        remote = files.is_remote(path)
        with files.reading(path), STALL_WATCH.reading(path):
            # Without a buffer, which would read a whole block of each shard.
            local = None if remote else open(path, "rb", buffering=0)  # noqa: SIM115
            file: IO[bytes] = local or files.open_file(path, "rb")
            head = file.read(_HEADER.size)
        self._compressed = _length(head) is None and shard_copy.is_compressed(head)
        if self._compressed or remote:
            file.close()
        else:
            with files.reading(path):
                self._use(file)

    def open(self) -> "ShardFile":
        """Copies a compressed or remote file, unless that has been done; returns this one.

        Raises:
          InputError: The file is cut short, is not a TFRecord file or holds another number of
            records; or there is no space for the copy.
        """
        with self._opening:
            if self._offsets is None:
                copy = shard_copy.copy(self.path, self._compressed)
                self._hash = copy.num_bytes, copy.sha256
                self._use(copy.file, copy.damage)
        return self

    def __len__(self) -> int:
        self.open()
        assert self._offsets is not None
        return len(self._offsets) - 1

    @property
    def starts(self) -> np.ndarray | None:
        """Position in the file of each record, in bytes, int64; None if it is compressed."""
        if self._compressed:
            return None
        self.open()
        assert self._offsets is not None
        return self._offsets[:-1]

    def read(self, number: int) -> bytes:
        """Returns a record by its position in the file, from 0.

        Raises:
          BadRecord: The record does not match its checksum.
          InputError: The file system fails, or `open` does.
        """
        if self._offsets is None:
            self.open()
        assert self._offsets is not None
        start, end = (int(x) for x in self._offsets[number : number + 2])
        with files.reading(self.path), STALL_WATCH.reading(self.path):
            return _read(self._file.fileno(), start, end)

    def place(self, number: int) -> str:
        """Returns the position of a record, for messages."""
        return f"record {number} (from 0) of {self.path}"

    def hash(self) -> tuple[int, str]:
        """Returns the size in bytes and the SHA-256 (hex) of the file itself."""
        return self._hash or files.hash_file(self.path)

    def _use(self, file: IO[bytes], damage: str = "") -> None:
        """Finds the records of an uncompressed file, from which they are then read.

        Args:
          file: This file or its copy.
          damage: What is wrong at the end of the copy, or "".
        """
        offsets, is_whole = _record_offsets(file.fileno())
        count = len(offsets) - 1
        if damage or not is_whole:
            bad = _first_bad(file.fileno(), offsets) if damage else count
            why = f" ({damage})" if damage else ""
            raise DamagedShard(
                f"A shard must be a complete TFRecord file. Received: {self.path}, which is cut "
                f"short or damaged at its record {bad} (from 0){why}. Copy or prepare it again.",
                bad,
            )
        if self._expected not in (None, count):
            raise InputError(
                f"A shard must hold the records that dataset.json counts. Received: {self.path} "
                f"with {count} records instead of {self._expected}. Copy or prepare the data set "
                "again."
            )
        self._file, self._offsets = file, offsets


class RecordReader:
    """Reader of the records of several shards as one sequence.

    Args:
      paths: Paths of the shards, in order.
      examples: Number of records that each shard must hold.

    Raises:
      InputError: A shard cannot be opened, is cut short, is not a TFRecord file or holds another
        number of records; of a compressed shard, that is found when it is first read.

    Attributes:
      paths: Paths of the shards.
      first: Number of the first record of each shard, and of all records, int64.
    """

    def __init__(self, paths: Sequence[str], examples: Sequence[int]):
        _allow_open_files(len(paths))
        self._shards = [ShardFile(*shard) for shard in zip(paths, examples, strict=True)]
        self.paths = tuple(paths)
        self.first = np.concatenate([[0], np.cumsum(examples)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.first[-1])

    def starts(self) -> np.ndarray:
        """Returns the position of each record in the file of its shard, in bytes, int64.

        Raises:
          InputError: A shard is compressed as a whole.
        """
        starts = []
        for shard in self._shards:
            if shard.starts is None:
                raise InputError(
                    "Hosts that another process drives read records from shards that are not "
                    f"compressed. Received: {shard.path}. Decompress the shards, and write their "
                    "dataset.json anew."
                )
            starts.append(shard.starts)
        return np.concatenate(starts)

    def read(self, index: int) -> bytes:
        """Returns the record with this number; see `ShardFile.read`."""
        shard, number = self._find(index)
        return shard.read(number)

    def place(self, index: int) -> str:
        """Returns the position of the record with this number, for messages."""
        shard, number = self._find(index)
        return shard.place(number)

    def _find(self, index: int) -> tuple[ShardFile, int]:
        shard = int(np.searchsorted(self.first, index, side="right")) - 1
        return self._shards[shard], index - int(self.first[shard])


def _allow_open_files(count: int) -> None:
    """Raises the usual limit of 1,024 open files, which ImageNet's shards exceed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        more = soft + count
        resource.setrlimit(
            resource.RLIMIT_NOFILE,
            (more if hard == resource.RLIM_INFINITY else min(more, hard), hard),
        )


def _length(header: bytes) -> int | None:
    """Returns the length of the record that follows a header; None if it is none."""
    if len(header) < _HEADER.size:
        return None
    length, crc = _HEADER.unpack(header)
    return length if crc == masked_crc32c(header[:8]) else None


def _record_offsets(file: int) -> tuple[np.ndarray, bool]:
    """Returns the starts of whole records with the end of the last, int64, and if all are whole."""
    size = os.fstat(file).st_size
    offsets = [0]
    while offsets[-1] < size:
        length = _length(os.pread(file, _HEADER.size, offsets[-1]))
        if length is None or offsets[-1] + length + _FRAME > size:
            break
        offsets.append(offsets[-1] + length + _FRAME)
    return np.array(offsets, np.int64), offsets[-1] == size


def _read(file: int, start: int, end: int) -> bytes:
    # Two calls: cutting the record out of its frame would copy it once more.
    record = os.pread(file, end - start - _FRAME, start + _HEADER.size)
    footer = os.pread(file, _FOOTER.size, end - _FOOTER.size)
    if len(footer) < _FOOTER.size or masked_crc32c(record) != _FOOTER.unpack(footer)[0]:
        raise BadRecord("a record that does not match its checksum")
    return record


def _first_bad(file: int, offsets: np.ndarray) -> int:
    """Returns the number of the first record that is damaged or, if none is, that is not whole."""
    for number, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        try:
            _read(file, start, end)
        except BadRecord:
            return number
    return len(offsets) - 1


def write_shard(path: str | os.PathLike[str], examples: Iterable[bytes]) -> ShardInfo:
    """Writes serialized examples as one TFRecord file, which appears under its name when complete.

    The SHA-256 is that of the file as read back, before it gets its name.

    Raises:
      InputError: The file cannot be written (no space, no permission).
    """
    import tensorflow as tf

    path = os.fspath(path)
    temporary = files.temporary_path(path)
    num_examples = 0
    with files.writing(path):
        # A killed process may have left this file, and another may still hold it open.
        files.remove(temporary)
        with tf.io.TFRecordWriter(temporary) as writer:
            for example in examples:
                writer.write(example)
                num_examples += 1
        num_bytes, sha256 = files.hash_file(temporary)
        files.rename(temporary, path)
    return ShardInfo(os.path.basename(path), num_examples, num_bytes, sha256)

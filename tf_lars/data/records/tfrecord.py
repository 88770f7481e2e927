"""TFRecord files: random access to records, each checked against its CRC, and writing.

A shuffled epoch is a permutation of record numbers, so records are read by number: nothing is
skipped, there is no shuffle buffer, and a damaged record is known by file and position. A read
takes as much CPU time as TensorFlow's sequential reader needs for the same record.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np

from tf_lars import files
from tf_lars.data.records.dataset_info import ShardInfo
from tf_lars.data.records.example import BadRecord
from tf_lars.data.records.stall_watch import StallWatch
from tf_lars.errors import InputError

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of those eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data
_FRAME = _HEADER.size + _FOOTER.size

_STALL_WATCH = StallWatch()


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord files store: CRC-32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordReader:
    """Reader of the records of several shards as one sequence.

    Args:
      paths: Paths of the shards, in order.
      examples: Number of records that each shard must hold.

    Raises:
      InputError: A shard cannot be opened, is cut short, is not a TFRecord file or holds another
        number of records.
    """

    def __init__(self, paths: Sequence[str], examples: Sequence[int]):
        self._paths = list(paths)
        self._files: list[BinaryIO] = []
        for path in paths:
            with files.reading(path):
                self._files.append(open(path, "rb", buffering=0))  # noqa: SIM115
        self._offsets: list[np.ndarray] = []
        for path, file, count in zip(paths, self._files, examples, strict=True):
            offsets = _record_offsets(path, file.fileno())
            if len(offsets) - 1 != count:
                raise InputError(
                    f"A shard must hold the records that dataset.json counts. Received: {path} "
                    f"with {len(offsets) - 1} records instead of {count}. "
                    "Copy or prepare the data set again."
                )
            self._offsets.append(offsets)
        self._first = np.concatenate([[0], np.cumsum(examples)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, index: int) -> bytes:
        """Returns the record with this number.

        Raises:
          BadRecord: The record does not match its checksum.
          InputError: The file system fails.
        """
        shard, place = self._find(index)
        start, end = (int(x) for x in self._offsets[shard][place : place + 2])
        with files.reading(self._paths[shard]), _STALL_WATCH.reading(self._paths[shard]):
            file = self._files[shard].fileno()
            # Two calls: cutting the record out of its frame would copy it once more.
            record = os.pread(file, end - start - _FRAME, start + _HEADER.size)
            footer = os.pread(file, _FOOTER.size, end - _FOOTER.size)
        if len(footer) < _FOOTER.size or masked_crc32c(record) != _FOOTER.unpack(footer)[0]:
            raise BadRecord("a record that does not match its checksum")
        return record

    def place(self, index: int) -> str:
        """Returns the position of the record with this number, for messages."""
        shard, place = self._find(index)
        return f"record {place} (from 0) of {self._paths[shard]}"

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, index - int(self._first[shard])


def count_records(path: str) -> int:
    """Returns the number of records in a shard.

    Raises:
      InputError: The shard cannot be opened, is cut short or is not a TFRecord file.
    """
    with files.reading(path), open(path, "rb") as file:
        return len(_record_offsets(path, file.fileno())) - 1


def _record_offsets(path: str, file: int) -> np.ndarray:
    """Returns the start of each record and the end of the file: int64 `[records + 1]`."""
    size = os.fstat(file).st_size
    offsets = [0]
    while offsets[-1] < size:
        header = os.pread(file, _HEADER.size, offsets[-1])
        whole = len(header) == _HEADER.size
        if whole:
            length, crc = _HEADER.unpack(header)
            whole = crc == masked_crc32c(header[:8])
            offsets.append(offsets[-1] + _HEADER.size + length + _FOOTER.size)
        if not whole or offsets[-1] > size:
            raise InputError(
                f"A shard must be a complete TFRecord file. Received: {path}, which is cut short "
                f"or damaged at its record {len(offsets) - 1 - int(whole)} (from 0). "
                "Copy or prepare it again."
            )
    return np.array(offsets, np.int64)


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

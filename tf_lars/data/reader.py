"""Random access to the records of TFRecord shards, each checked against its CRC.

A shuffled epoch is a permutation of record numbers, so records are read by number: nothing is
skipped over, there is no shuffle buffer, and a damaged record is known by file and place.
One read costs as much CPU time as TensorFlow's sequential reader takes for the same record.
"""

import functools
import os
import struct
from collections.abc import Iterable, Sequence

import google_crc32c
import numpy as np

from tf_lars.data import files
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import InputError

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of those eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord files store: CRC-32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.lru_cache(maxsize=4)
def open_split(data_dir: str, split: str) -> "RecordReader":
    """Returns a reader of one split of a prepared data set.

    Raises:
      InputError: the folder is remote; `dataset.json` or a shard is missing, unreadable or
        damaged.
    """
    if files.is_remote(data_dir):
        raise InputError(
            "Training reads its data record by record, from a folder of this machine. Received: "
            f"{data_dir!r}. Copy the data set, or mount the bucket as a folder."
        )
    shards = DatasetInfo.load(data_dir).splits[split].shards
    paths = [os.path.join(data_dir, shard.name) for shard in shards]
    return RecordReader(paths, [shard.num_examples for shard in shards])


class RecordReader:
    """The records of several shards as one sequence.

    Args:
      paths: the shard files, in order.
      examples: the number of records that each shard must hold.

    Raises:
      InputError: a shard cannot be opened, is cut short, is no TFRecord file or holds another
        number of records.
    """

    def __init__(self, paths: Sequence[str], examples: Sequence[int]):
        self._paths = list(paths)
        self._files: list[int] = []
        for path in paths:
            with files.reading(path):
                self._files.append(os.open(path, os.O_RDONLY))
        self._offsets: list[np.ndarray] = []
        for path, file, count in zip(paths, self._files, examples, strict=True):
            offsets = _record_offsets(path, file)
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

    def __del__(self):
        for file in getattr(self, "_files", []):
            os.close(file)

    def read(self, indices: Iterable[int]) -> list[bytes]:
        """Returns the records with these numbers.

        Raises:
          InputError: a record does not match its checksum; names the file and the record.
        """
        return [self._read_one(int(index)) for index in indices]

    def _read_one(self, index: int) -> bytes:
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        place = index - int(self._first[shard])
        start, end = (int(x) for x in self._offsets[shard][place : place + 2])
        framed = os.pread(self._files[shard], end - start, start)
        record = framed[_HEADER.size : -_FOOTER.size]
        if len(framed) != end - start or masked_crc32c(record) != _FOOTER.unpack(framed[-4:])[0]:
            raise InputError(
                "A record must match its checksum. Received: a damaged record, number "
                f"{place} (from 0) of {self._paths[shard]}. Copy or prepare that file again."
            )
        return record


def _record_offsets(path: str, file: int) -> np.ndarray:
    """Returns where each record begins, and the file's end: int64, shape [records + 1]."""
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
                f"A shard must be a whole TFRecord file. Received: {path}, which is cut short or "
                f"damaged at its record {len(offsets) - 1 - int(whole)} (from 0). "
                "Copy or prepare it again."
            )
    return np.array(offsets, np.int64)

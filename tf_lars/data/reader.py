"""Random access to the records of TFRecord shards, each checked against its CRC.

A shuffled epoch is a permutation of record numbers, so records are read by number: nothing is
skipped over, there is no shuffle buffer, and a damaged record is known by file and place.
One read costs as much CPU time as TensorFlow's sequential reader takes for the same record.
"""

import functools
import itertools
import os
import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np
from absl import logging

from tf_lars.data import examples, files
from tf_lars.data.records import DatasetInfo
from tf_lars.data.stall import StallWatch
from tf_lars.errors import InputError

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of those eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data
_FRAME = _HEADER.size + _FOOTER.size
_STALL_WATCH = StallWatch()


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TFRecord files store: CRC-32C, rotated and offset."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.lru_cache(maxsize=8)
def open_split(data_dir: str, split: str, max_bad_records: int = 0) -> "ExampleReader":
    """Returns the reader of one split of a data set, one and the same for the same arguments.

    Args:
      data_dir: folder with a `dataset.json`.
      split: "train" or "validation".
      max_bad_records: bad records of this split that this process may pass over.

    Raises:
      InputError: the folder is remote; `dataset.json` or a shard is missing, unreadable or
        damaged.
    """
    if files.is_remote(data_dir):
        raise InputError(
            "Training reads its data record by record, from a folder of this machine. Received: "
            f"{data_dir!r}. Copy the data set, or mount the bucket as a folder."
        )
    info = DatasetInfo.load(data_dir)
    shards = info.splits[split].shards
    paths = [os.path.join(data_dir, shard.name) for shard in shards]
    records = RecordReader(paths, [shard.num_examples for shard in shards])
    return ExampleReader(records, info.record_format, info.labels, max_bad_records)


class ExampleReader:
    """Examples by number. Each is looked at once by each process, when it is first read.

    Args:
      records: the records that hold the examples.
      form: where an example keeps image and label.
      labels: the labels that there are, as they are stored.
      max_bad_records: how many different records may be bad; training takes the next good one in
        the place of each.

    Attributes:
      bad: what is wrong with each bad record met so far, by its number.
    """

    def __init__(
        self,
        records: "RecordReader",
        form: examples.RecordFormat,
        labels: range,
        max_bad_records: int = 0,
    ):
        self._records = records
        self._form = form
        self._labels = labels
        self._max_bad_records = max_bad_records
        self._looked_at = np.zeros(len(records), bool)
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Iterable[int]) -> tuple[list[bytes], list[int], list[bool]]:
        """Returns the examples with these numbers: image files, labels as they are stored, and
        whether each example is the one asked for.

        Raises:
          InputError: more than `max_bad_records` are bad; names files and places.
        """
        encoded, labels, own = [], [], []
        for index in map(int, indices):
            image, label, found = self._good_one(index)
            encoded.append(image)
            labels.append(label)
            own.append(found == index)
        return encoded, labels, own

    def _good_one(self, index: int) -> tuple[bytes, int, int]:
        for candidate in itertools.chain(range(index, len(self)), range(index)):
            example = None if candidate in self.bad else self._checked(candidate)
            if example is not None:
                # Not the features, which would keep a copy of the image in memory.
                return example.encoded, example.label, candidate
        raise InputError(f"A split must hold a good record. Received: {len(self)} bad ones.")

    def _checked(self, index: int) -> examples.Example | None:
        try:
            # A third of the time of TensorFlow's parser, which copies the image once more.
            example = examples.parse(self._records.read(index), self._form)
            if not self._looked_at[index]:
                examples.check(example, self._labels)
                self._looked_at[index] = True
            return example
        except examples.BadRecord as error:
            self._note(index, f"{error}, in {self._records.place(index)}")
            return None

    def _note(self, index: int, problem: str) -> None:
        self.bad[index] = problem
        if len(self.bad) > self._max_bad_records:
            raise InputError(
                "Every record must hold an image that can be decoded, and its label. Received: "
                f"{'; '.join(list(self.bad.values())[:10])}. Copy or prepare the file again, or "
                "pass over some with --max_bad_records."
            )
        logging.warning("Passing over a bad record: %s.", problem)


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
          BadRecord: it does not match its checksum.
          InputError: the file system fails.
        """
        shard, place = self._find(index)
        start, end = (int(x) for x in self._offsets[shard][place : place + 2])
        with files.reading(self._paths[shard]), _STALL_WATCH.reading(self._paths[shard]):
            file = self._files[shard].fileno()
            # Two calls, lest the record be copied once more to cut it out of its frame.
            record = os.pread(file, end - start - _FRAME, start + _HEADER.size)
            footer = os.pread(file, _FOOTER.size, end - _FOOTER.size)
        if len(footer) < _FOOTER.size or masked_crc32c(record) != _FOOTER.unpack(footer)[0]:
            raise examples.BadRecord("a record that does not match its checksum")
        return record

    def place(self, index: int) -> str:
        """Returns where the record with this number is, for messages."""
        shard, place = self._find(index)
        return f"record {place} (from 0) of {self._paths[shard]}"

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, index - int(self._first[shard])


def count_records(path: str) -> int:
    """Returns the number of records in a shard.

    Raises:
      InputError: it cannot be opened, is cut short or is no TFRecord file.
    """
    with files.reading(path), open(path, "rb") as file:
        return len(_record_offsets(path, file.fileno())) - 1


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

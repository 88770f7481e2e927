"""Random access to the examples of a split, with checks and replacement of bad records."""

import collections
import functools
import itertools
import os
import weakref
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging

from tf_lars import files
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.data.records.example import (
    BadRecord,
    Example,
    RecordFormat,
    check_example,
    decodes,
    parse_example,
)
from tf_lars.data.records.tfrecord import RecordReader
from tf_lars.errors import InputError

# Calls of `read` whose images may still be on their way through a pipeline.
_RECENT_CALLS = 256

_READERS: "weakref.WeakSet[ExampleReader]" = weakref.WeakSet()


@functools.lru_cache(maxsize=8)
def open_split(data_dir: str, split: str, max_bad_records: int = 0) -> "ExampleReader":
    """Returns the reader of one split of a data set, the same one for the same arguments.

    Args:
      data_dir: Folder with a `dataset.json`.
      split: "train" or "validation".
      max_bad_records: Number of bad records of this split that this process may skip.

    Raises:
      InputError: The folder is remote, or `dataset.json` or a shard is missing, unreadable or
        damaged.
    """
    if files.is_remote(data_dir):
        raise InputError(
            "Training reads its data record by record, from a local folder. Received: "
            f"{data_dir!r}. Copy the data set, or mount the bucket as a folder."
        )
    info = DatasetInfo.load(data_dir)
    shards = info.splits[split].shards
    paths = [os.path.join(data_dir, shard.name) for shard in shards]
    records = RecordReader(paths, [shard.num_examples for shard in shards])
    return ExampleReader(records, info.record_format, info.labels, max_bad_records)


def undecodable() -> InputError | None:
    """Returns the error that names the images which a decoder has just rejected, in any pipeline.

    TensorFlow's own error does not. The check of an example is meant to find every such image
    before it enters a pipeline; this names one that it has let pass.
    """
    problems = [problem for reader in list(_READERS) for problem in reader.undecodable()]
    return _bad_records(problems) if problems else None


def _bad_records(problems: Sequence[str]) -> InputError:
    return InputError(
        "Every record must hold a decodable image and its label. Received: "
        f"{'; '.join(problems[:10])}. Copy or prepare the file again, or skip some with "
        "--max_bad_records."
    )


class ExampleReader:
    """Reader of examples by number, which checks each example when it is first read.

    Args:
      records: Records that hold the examples.
      form: Names of the features that hold image and label.
      labels: Valid labels, as stored.
      max_bad_records: Number of different records that may be bad; each is replaced by the next
        good one.

    Attributes:
      records: Records that hold the examples.
      bad: Fault of each bad record found so far, by its number.
    """

    def __init__(
        self,
        records: RecordReader,
        form: RecordFormat,
        labels: range,
        max_bad_records: int = 0,
    ):
        self.records = records
        self._form = form
        self._labels = labels
        self._max_bad_records = max_bad_records
        self._looked_at = np.zeros(len(records), bool)
        self._recent: collections.deque[list[int]] = collections.deque(maxlen=_RECENT_CALLS)
        self.bad: dict[int, str] = {}
        _READERS.add(self)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: Iterable[int]) -> tuple[list[bytes], list[int], list[bool]]:
        """Returns the examples with these numbers.

        Returns:
          The image files, the labels as stored, and whether each example is the requested one
          rather than a replacement.

        Raises:
          InputError: More than `max_bad_records` records are bad; the message gives their files
            and positions.
        """
        encoded, labels, own = [], [], []
        numbers: list[int] = []
        self._recent.append(numbers)
        for index in map(int, indices):
            image, label, found = self._good_one(index)
            encoded.append(image)
            labels.append(label)
            own.append(found == index)
            numbers.append(found)
        return encoded, labels, own

    def undecodable(self) -> list[str]:
        """Returns the faults of the recently read images that TensorFlow does not decode."""
        recent = sorted({number for numbers in list(self._recent) for number in numbers})
        return [
            f"a JPEG that cannot be decoded, in {self.records.place(number)}"
            for number in recent
            if not self._decodes(number)
        ]

    def _decodes(self, number: int) -> bool:
        try:
            return decodes(parse_example(self.records.read(number), self._form).encoded)
        except BadRecord:  # since it was read
            return False

    def _good_one(self, index: int) -> tuple[bytes, int, int]:
        for candidate in itertools.chain(range(index, len(self)), range(index)):
            example = None if candidate in self.bad else self._checked(candidate)
            if example is not None:
                # Without the features, which would keep a copy of the image in memory.
                return example.encoded, example.label, candidate
        raise InputError(f"A split must hold a good record. Received: {len(self)} bad ones.")

    def _checked(self, index: int) -> Example | None:
        try:
            # Takes a third of the time of TensorFlow's parser, which copies the image once more.
            example = parse_example(self.records.read(index), self._form)
            if not self._looked_at[index]:
                check_example(example, self._labels)
                self._looked_at[index] = True
            return example
        except BadRecord as error:
            self._note(index, f"{error}, in {self.records.place(index)}")
            return None

    def _note(self, index: int, problem: str) -> None:
        self.bad[index] = problem
        if len(self.bad) > self._max_bad_records:
            raise _bad_records(list(self.bad.values()))
        logging.warning("Skipping a bad record: %s.", problem)

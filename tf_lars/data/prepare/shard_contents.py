"""Reads every record of a shard, as training will: checksum, label and image."""

import collections
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tf_lars.data.records.dataset_info import ShardInfo
from tf_lars.data.records.example import (
    FORMATS,
    BadRecord,
    Example,
    check_image,
    parse_example,
)
from tf_lars.data.records.tfrecord import ShardFile


class ClassText(NamedTuple):
    """Identifier and name of a class in its records, or ""."""

    synset: str
    text: str


@dataclass
class ShardContents:
    """Contents of one shard.

    Attributes:
      info: Name, number of records, size and hash.
      form: Format of the records, a key of `FORMATS`; None if no record is of any of them.
      labels: Number of good records by label.
      texts: Names of the classes.
      bad: Faults of the other records, with their places.
    """

    info: ShardInfo
    form: str | None
    labels: collections.Counter = field(default_factory=collections.Counter)
    texts: dict[int, ClassText] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


def read(task: tuple[str, str, str | None], advance: Callable[[int], None]) -> ShardContents:
    """Reads one shard; can be a task of a worker process.

    Args:
      task: Folder, path of the shard in it, and format of its records; None for the format of the
        first record that is of one.
      advance: Function called with the size of the shard in MiB when it is done.

    Raises:
      InputError: The shard cannot be read, is cut short or is not a TFRecord file.
    """
    folder, name, form = task
    shard = ShardFile(os.path.join(folder, name)).open()
    num_bytes, sha256 = shard.hash()
    found = ShardContents(ShardInfo(name, len(shard), num_bytes, sha256), form)
    for number in range(len(shard)):
        try:
            record = shard.read(number)
            found.form, example = _parse(record, found.form)
            check_image(example.encoded)
        except BadRecord as error:
            found.bad.append(f"{error}, in {shard.place(number)}")
            continue
        found.labels[example.label] += 1
        if example.label not in found.texts:
            found.texts[example.label] = ClassText(
                _text(example, "image/class/synset"), _text(example, "image/class/text")
            )
    advance(num_bytes >> 20)
    return found


def _parse(record: bytes, form: str | None) -> tuple[str, Example]:
    """Returns the format of a record and its example."""
    if form is not None:
        return form, parse_example(record, FORMATS[form])
    faults = []
    for name, features in FORMATS.items():
        try:
            return name, parse_example(record, features)
        except BadRecord as error:
            faults.append(str(error))
    raise BadRecord(", ".join(dict.fromkeys(faults)))


def _text(example: Example, name: str) -> str:
    values = example.features[name].bytes_list.value if name in example.features else ()
    return os.fsdecode(values[0]) if values else ""

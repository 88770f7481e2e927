"""Names of TFRecord shards: what marks a file as a shard, and to which split it belongs.

A shard's name ends in `-00000-of-00010`, in `.tfrecord`, `.tfrecords` or `.tfrec`, or in both, with
or without `.gz` after it. The split is a word of the name or, if the name has none, the folder:

| split | words |
|---|---|
| train | train, training |
| validation | validation, valid, val, evaluation, eval |
| test, which is not read | test, testing |
"""

import collections
import itertools
import os
import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "evaluation", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_SHARD = re.compile(
    r"(?P<stem>.+?)(?P<first>\.tfrecords?|\.tfrec)?"
    r"(?:-(?P<number>[0-9]{1,9})-of-(?P<total>[0-9]{1,9}))?(?P<last>\.tfrecords?|\.tfrec)?(?:\.gz)?",
    re.IGNORECASE | re.DOTALL,
)
# As tensorflow-datasets names its files: DATASET-SPLIT.
_DATASET_AND_SPLIT = re.compile(rf"(?P<dataset>.+)-(?:{'|'.join(_SPLIT_OF)})", re.IGNORECASE)


class ShardName(NamedTuple):
    """Parts of the path of a shard, relative to the folder of the data set.

    Attributes:
      path: Path, with `/` between its parts.
      stem: File name without its number and extension.
      number: Number of the shard in `-00000-of-00010`, if it has one.
      total: Number of shards after `-of-`, if the name has it.
    """

    path: str
    stem: str
    number: int | None
    total: int | None

    @property
    def folder(self) -> str:
        """Subfolder of the shard, or ""."""
        return posixpath.dirname(self.path)

    @property
    def dataset(self) -> str | None:
        """Name of the data set in names such as `imagenet2012-train.tfrecord-00000-of-01024`."""
        match = _DATASET_AND_SPLIT.fullmatch(self.stem)
        return match["dataset"] if match else None

    @property
    def splits(self) -> set[str]:
        """Splits that the name and the folder mention: several if they contradict each other."""
        return _splits(self.stem) | _splits(self.folder)

    @property
    def series(self) -> tuple[str, str, int | None]:
        """The same value for all shards of one split of one data set."""
        # Without a number of shards, any digits may be their numbers.
        stem = re.sub(r"\d+", "#", self.stem) if self.total is None else self.stem
        return self.folder, stem, self.total


def parse(path: str) -> ShardName | None:
    """Returns the parts of a shard's path, or None if its name is not that of a shard."""
    match = _SHARD.fullmatch(os.path.basename(path))
    if match is None or not (match["first"] or match["number"] or match["last"]):
        return None
    numbers = (int(text) if (text := match[part]) else None for part in ("number", "total"))
    return ShardName(path, match["stem"], *numbers)


def is_path(text: str) -> bool:
    """Returns whether a text can be the path of a shard: relative, plain, and in the folder."""
    if not text.isprintable() or "\\" in text:  # surrogates, of names not in UTF-8, are neither
        return False
    inside = text.split("/")[0] not in ("", ".", "..")
    return inside and posixpath.normpath(text) == text


def folders(split: str) -> tuple[str, ...]:
    """Returns the names that a subfolder with the shards of a split may have."""
    return _WORDS[split]


def fault(names: Iterable[ShardName]) -> str | None:
    """Returns what is wrong with the numbers of some shards, such as "without ...", or None.

    Each series whose names give its number of shards must be whole.
    """
    by_series = collections.defaultdict(list)
    for name in names:
        by_series[name.series].append(name)
    for (_, _, total), series in by_series.items():
        if total is None:
            continue
        numbers = {name.number for name in series}
        absent = next(number for number in itertools.count() if number not in numbers)
        if absent < total:
            return f"without number {absent} of the {total} like {series[0].path}"
        if len(series) > total:
            return f"with {len(series)} instead of {total} like {series[0].path}"
    return None


def _splits(text: str) -> set[str]:
    """Returns the splits that the words of a text mention."""
    last = text.lower().rpartition("-")[2]
    if last in _SPLIT_OF:  # whatever the words before it, which name the data set
        return {_SPLIT_OF[last]}
    return {_SPLIT_OF[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPLIT_OF}

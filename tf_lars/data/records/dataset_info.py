"""TFRecord shards in the standard ImageNet schema, and the `dataset.json` that describes them.

A prepared data set is a folder with `train-00000-of-000NN`, `validation-00000-of-000NN` and a
`dataset.json`, which is written last: a folder without it is not finished. Every path may be
local or remote (`gs://`), as TensorFlow's file system layer allows.
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from tf_lars import files
from tf_lars.data.records.example import FORMATS, RecordFormat
from tf_lars.errors import InputError

DATASET_FILE = "dataset.json"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")

# Requests in flight while shards are examined; matters on remote storage only.
_PARALLEL_REQUESTS = 32


@dataclass(frozen=True)
class ShardInfo:
    """One TFRecord file: its name in the folder, its examples, its size and its SHA-256 (hex)."""

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """The shards of one split, in the order of their names."""

    shards: tuple[ShardInfo, ...]

    @property
    def num_examples(self) -> int:
        """Examples in all shards together."""
        return sum(shard.num_examples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards together."""
        return sum(shard.num_bytes for shard in self.shards)


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says about a prepared data set.

    Args:
        name: Name of the data set.
        class_names: One name per class; the label in the records is the position here plus
            `label_base`.
        synsets: One identifier per class (the WordNet id of ImageNet), in the same order.
        splits: `SplitInfo` of "train" and "validation".
        settings: What the preparation was asked for.
        form: Which of `tf_lars.data.records.example.FORMATS` the records are in.
        label_base: The label of the first class in the records, 0 or 1.
        report: What it met: per split the number of images that were re-encoded and refused,
            and under "files" the first of them by name.
    """

    name: str
    class_names: tuple[str, ...]
    synsets: tuple[str, ...]
    splits: Mapping[str, SplitInfo]
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    form: str = "standard"
    label_base: int = 1

    @property
    def record_format(self) -> RecordFormat:
        """Where a record keeps image and label."""
        return FORMATS[self.form]

    @property
    def labels(self) -> range:
        """The labels that there are, as they are stored."""
        return range(self.label_base, self.label_base + self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any byte of any shard."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for shard in self.splits[split].shards:
                digest.update(f"{shard.name} {shard.sha256}\n".encode())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset.json` and compares the shards' sizes with it.

        Raises:
            InputError: The folder is missing or empty, `dataset.json` is missing, not JSON or of
                another version, a shard is missing or has another size, or a split is empty.
        """
        data_dir = os.fspath(data_dir)
        info = cls.read(data_dir)
        for split, split_info in info.splits.items():
            if split_info.num_examples == 0:
                raise InputError(
                    f"Every split must hold examples. Received: no {split} examples in "
                    f"{data_dir!r}. Prepare the data set again."
                )
        _check_sizes(data_dir, info)
        return info

    @classmethod
    def read(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset.json` as `load` does, without a look at the shards."""
        data_dir = os.fspath(data_dir)
        with files.reading(data_dir):
            return cls._read(data_dir)

    @classmethod
    def _read(cls, data_dir: str) -> "DatasetInfo":
        path = os.path.join(data_dir, DATASET_FILE)
        if not files.is_folder(data_dir):
            raise InputError(
                f"The data folder must exist. Received: {data_dir!r}, which is no folder. "
                "Write one with `python -m launch.prepare_imagenet`."
            )
        if not files.exists(path):
            holds = "files but no" if files.names(data_dir) else "nothing, so no"
            raise InputError(
                f"A prepared data folder holds {DATASET_FILE}. Received: {data_dir!r}, which "
                f"holds {holds} {DATASET_FILE}. Write it with `python -m launch.prepare_imagenet`, "
                "or run that again where it was interrupted."
            )
        try:
            content = files.read_json(path)
        except ValueError as error:
            raise InputError(
                f"{DATASET_FILE} must be JSON. Received: {path!r} ({error}). Prepare the data set "
                "again."
            ) from error
        version = content.get("version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise InputError(
                f"{DATASET_FILE} must be of version {FORMAT_VERSION}. Received: version "
                f"{version!r} in {path!r}. Prepare the data set again."
            )
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{DATASET_FILE} must hold the classes and shards as they were written. Received: "
                f"{path!r} ({type(error).__name__}: {error}). Prepare the data set again."
            ) from error

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> "DatasetInfo":
        return cls(
            name=content["name"],
            class_names=tuple(content["class_names"]),
            synsets=tuple(content["synsets"]),
            splits={
                split: SplitInfo(
                    tuple(ShardInfo(**shard) for shard in content["splits"][split]["shards"])
                )
                for split in SPLITS
            },
            settings=content["settings"],
            report=content["report"],
            form=content.get("form", "standard"),
            label_base=content.get("label_base", 1),
        )

    def save(self, data_dir: str | os.PathLike[str]) -> None:
        """Writes `dataset.json`, atomically."""
        files.write_json(
            os.path.join(os.fspath(data_dir), DATASET_FILE),
            {"version": FORMAT_VERSION, **asdict(self)},
        )


# The wire format of protocol buffers, for tensorflow/core/example/{example,feature}.proto. Writing
# it here takes half the time of building the messages: the image is copied once.


def _check_sizes(data_dir: str, info: DatasetInfo) -> None:
    shards = [shard for split in info.splits.values() for shard in split.shards]
    paths = [os.path.join(data_dir, shard.name) for shard in shards]
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        sizes = pool.map(files.size, paths)
    for shard, size in zip(shards, sizes, strict=True):
        if size is None:
            raise InputError(
                f"Every shard in {DATASET_FILE} must exist. Received: {data_dir!r} without "
                f"{shard.name}. Copy or prepare the data set again."
            )
        if size != shard.num_bytes:
            raise InputError(
                f"Every shard must have the size that {DATASET_FILE} records. Received: "
                f"{shard.name} of {size} bytes instead of {shard.num_bytes} in {data_dir!r}. "
                "Copy or prepare the data set again."
            )

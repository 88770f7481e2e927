"""Prepared data sets: TFRecord shards, and the `dataset.json` that describes them.

A prepared data set is a folder with `train-00000-of-000NN`, `validation-00000-of-000NN` and a
`dataset.json`, which is written last: a folder without it is unfinished. Every path may be local or
remote (`gs://`), as supported by TensorFlow's file systems.

`dataset.json` holds a checksum of its content (`tf_lars.sealed_json`). One without
a checksum, written by an earlier version or changed by hand, is accepted if its content is sound.
"""

import hashlib
import os
import reprlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from tf_lars import files, sealed_json
from tf_lars.data.records import dataset_schema
from tf_lars.data.records.dataset_schema import SPLITS
from tf_lars.data.records.example import FORMATS, RecordFormat
from tf_lars.errors import InputError

DATASET_FILE = "dataset.json"
FORMAT_VERSION = 1

# Concurrent requests for the sizes of shards; matters only on remote storage.
_PARALLEL_REQUESTS = 32


@dataclass(frozen=True)
class ShardInfo:
    """One TFRecord file: name in the folder, number of examples, size and SHA-256 (hex)."""

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """Shards of one split, in the order of their names."""

    shards: tuple[ShardInfo, ...]

    @property
    def num_examples(self) -> int:
        """Number of examples in all shards."""
        return sum(shard.num_examples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.num_bytes for shard in self.shards)


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a prepared data set, stored in its `dataset.json`.

    Args:
        name: Name of the data set.
        class_names: Name of each class; a class's label in the records is its position here plus
            `label_base`.
        synsets: Identifier of each class (in ImageNet, its WordNet id), in the same order.
        splits: `SplitInfo` of "train" and "validation".
        settings: Settings of the preparation.
        report: Outcome of the preparation: per split, the number of re-encoded, resized, oriented
            and refused images, and the names of the first ones under "files".
        form: Format of the records, a key of `tf_lars.data.records.example.FORMATS`.
        label_base: Label of the first class in the records, 0 or 1.
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
        """Names of the features that hold image and label in a record."""
        return FORMATS[self.form]

    @property
    def labels(self) -> range:
        """Valid labels, as stored."""
        return range(self.label_base, self.label_base + self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_refused(self) -> int:
        """Number of images that the preparation left out, or of bad records when described."""
        return sum(self.report[split]["refused"]["count"] for split in SPLITS if self.report)

    @property
    def fingerprint(self) -> str:
        """Hash of 16 hexadecimal digits that changes with any byte of any shard."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for shard in self.splits[split].shards:
                digest.update(f"{shard.name} {shard.sha256}\n".encode())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset.json` and checks the sizes of the shards against it.

        Raises:
            InputError: The folder is missing or empty; `dataset.json` is missing, is not JSON, has
                another version, was changed, or does not fit together; a shard is missing or has
                another size; or a split is empty.
        """
        data_dir = os.fspath(data_dir)
        info = cls.read(data_dir)
        for split, split_info in info.splits.items():
            if split_info.num_examples == 0:
                raise InputError(
                    f"Every split must hold examples. Received: no {split} examples in "
                    f"{data_dir!r}. Prepare the data set again."
                )
        with files.reading(data_dir):
            _check_sizes(data_dir, info)
        return info

    @classmethod
    def read(cls, data_dir: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset.json` as `load` does, without checking the shards."""
        data_dir = os.fspath(data_dir)
        with files.reading(data_dir):
            return cls._read(data_dir)

    @classmethod
    def _read(cls, data_dir: str) -> "DatasetInfo":
        path = os.path.join(data_dir, DATASET_FILE)
        if not files.is_folder(data_dir):
            raise InputError(
                f"The data folder must exist. Received: {data_dir!r}, which is not a folder. "
                "Write one with `python -m launch.prepare_imagenet`."
            )
        if not files.exists(path):
            holds = f"files but no {DATASET_FILE}" if files.names(data_dir) else "nothing"
            raise InputError(
                f"A prepared data folder must hold {DATASET_FILE}. Received: {data_dir!r}, which "
                f"holds {holds}. Write it with `python -m launch.prepare_imagenet`; if that was "
                "interrupted, run it again."
            )
        try:
            content = files.read_json(path)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{DATASET_FILE} must be JSON. Received: {path!r} ({error}). Prepare the data set "
                "again."
            ) from error
        version = content.get("version") if isinstance(content, dict) else None
        if type(version) is not int or version != FORMAT_VERSION:
            raise InputError(
                f"{DATASET_FILE} must have version {FORMAT_VERSION}. Received: version "
                f"{reprlib.repr(version)} in {path!r}. Prepare the data set again."
            )
        try:
            dataset_schema.check(content)
        except ValueError as error:
            raise InputError(
                f"{DATASET_FILE} must hold the classes and shards as written. Received: "
                f"{path!r}, where {error}. Correct it, or prepare the data set again."
            ) from error
        if not sealed_json.is_sound(content):
            raise InputError(
                f"{DATASET_FILE} must be as it was written. Received: {path!r}, which does not "
                "match its checksum. Copy it again; or, to keep a change made by hand, delete its "
                f'"{sealed_json.CHECKSUM}" entry, then check the data with python -m '
                f"launch.prepare_imagenet --verify --output_dir={data_dir}."
            )
        return cls._from_json(content)

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
            sealed_json.seal({"version": FORMAT_VERSION, **asdict(self)}),
        )


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
                f"Every shard must have the size recorded in {DATASET_FILE}. Received: "
                f"{shard.name} of {size} bytes instead of {shard.num_bytes} in {data_dir!r}. "
                "Copy or prepare the data set again."
            )

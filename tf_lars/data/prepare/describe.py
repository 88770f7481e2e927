"""Describes shards written by another program, so that training can read them in place.

Supports the folders of `imagenet_to_gcs.py` (tensorflow/tpu; labels from 1) and the TFRecord files
of tensorflow-datasets' imagenet2012 (labels from 0). Reads every record once, checks its checksum,
its label and the markers of its image, and writes `dataset.json`.
"""

import collections
import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tf_lars import files
from tf_lars.data.prepare import output_folder
from tf_lars.data.prepare.process_pool import run_tasks
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.records.dataset_info import (
    DATASET_FILE,
    SPLITS,
    DatasetInfo,
    ShardInfo,
    SplitInfo,
)
from tf_lars.data.records.example import FORMATS, BadRecord, Example, check_image, parse_example
from tf_lars.data.records.tfrecord import RecordReader, count_records
from tf_lars.errors import InputError
from tf_lars.machine import available_cores

# train-00000-of-01024, validation-00000-of-00128, imagenet2012-train.tfrecord-00000-of-01024
_SHARD = re.compile(
    r"(?:(?P<name>[\w.]+)-)?(?P<split>train|validation)(?P<tfrecord>\.tfrecord)?"
    r"-(?P<number>\d{5})-of-(?P<count>\d{5})"
)
_NAMED_BAD_RECORDS = 10


@dataclass
class _Found:
    """Contents of one shard."""

    info: ShardInfo
    labels: collections.Counter = field(default_factory=collections.Counter)
    names: dict[int, tuple[str, str]] = field(default_factory=dict)  # label: synset, text
    bad: list[str] = field(default_factory=list)


def describe(
    folder: str,
    *,
    label_base: int | None = None,
    num_classes: int | None = None,
    max_bad_images: int = 0,
    num_processes: int | None = None,
) -> DatasetInfo:
    """Reads all shards of a folder and writes its `dataset.json`.

    Args:
      folder: Local folder with the shards, or with `train/` and `validation/` that hold them.
      label_base: Label of the first class, 0 or 1. By default 0 for tensorflow-datasets; for
        others 1, or 0 if a record has the label 0.
      num_classes: Number of classes. By default, the number of label names of tensorflow-datasets,
        or else up to the highest label.
      max_bad_images: Number of records that may lack a decodable image; training needs
        `--max_bad_records` for them.
      num_processes: Number of worker processes; by default one per core.

    Raises:
      InputError: There are no such shards, one is missing or damaged, labels do not fit the
        classes, or there are more bad images than allowed.
    """
    if not os.path.isdir(folder):
        raise InputError(
            f"Shards are described in place, in a local folder. Received: {folder!r}, which is not "
            "a folder. Check the path."
        )
    shards = {split: _shards(folder, split) for split in SPLITS}
    tfds = all(_parts(name)["tfrecord"] for names in shards.values() for name in names)
    form = "tfds" if tfds else "standard"
    found = _look(folder, shards, form, num_processes or available_cores())
    bad = [problem for split in SPLITS for shard in found[split] for problem in shard.bad]
    if len(bad) > max_bad_images:
        listed = "; ".join(bad[:_NAMED_BAD_RECORDS])
        raise InputError(
            f"Every record must hold a decodable image and its label. Received: {len(bad)} that do "
            f"not: {listed}. Write those shards again, or accept the records with "
            f"max_bad_images={len(bad)}."
        )
    base, names = _classes(folder, found, form, label_base, num_classes)
    info = DatasetInfo(
        name=_parts(shards["train"][0])["name"] or os.path.basename(os.path.abspath(folder)),
        class_names=tuple(text for _, text in names),
        synsets=tuple(synset for synset, _ in names),
        splits={split: SplitInfo(tuple(s.info for s in found[split])) for split in SPLITS},
        settings={"described": True},
        report={
            split: {
                "reencoded": {"count": 0, "files": []},
                "resized": {"count": 0},
                "refused": {
                    "count": sum(len(shard.bad) for shard in found[split]),
                    "files": [problem for shard in found[split] for problem in shard.bad],
                },
            }
            for split in SPLITS
        },
        form=form,
        label_base=base,
    )
    info.save(folder)
    return info


def is_undescribed(folder: str) -> bool:
    """Returns whether a folder holds shards that `describe` can read but no `dataset.json`."""
    if not os.path.isdir(folder) or os.path.exists(os.path.join(folder, DATASET_FILE)):
        return False
    # An interrupted preparation leaves shards too, and notes for its next start.
    if output_folder.is_unfinished(folder):
        return False
    return any(_SHARD.fullmatch(os.path.basename(name)) for name in _names(folder, "train"))


def _shards(folder: str, split: str) -> list[str]:
    """Returns the paths of a split's shards relative to the folder, in order."""
    found = [
        name
        for name in _names(folder, split)
        if (match := _SHARD.fullmatch(os.path.basename(name))) and match["split"] == split
    ]
    if not found:
        raise InputError(
            f"A folder of TFRecords must hold {split}-00000-of-000NN, or *-{split}.tfrecord-00000-"
            f"of-000NN, directly or in {split}/. Received: {folder!r} without such files. Check "
            "the path."
        )
    parts = [_parts(name) for name in found]
    kinds = {(os.path.dirname(n), p["name"], p["count"]) for n, p in zip(found, parts, strict=True)}
    if len(kinds) > 1:
        raise InputError(
            f"A folder must hold the {split} shards of one data set. Received: several in "
            f"{folder!r}, such as {found[0]} and {found[-1]}. Move the others away."
        )
    count = int(parts[0]["count"])
    missing = sorted(set(range(count)) - {int(part["number"]) for part in parts})
    if missing:
        raise InputError(
            f"All {count} {split} shards must exist. Received: {folder!r} without {len(missing)} "
            f"of them, the first number {missing[0]}. Copy the data set again."
        )
    return sorted(found)


def _names(folder: str, split: str) -> list[str]:
    """Returns the relative paths of all files in the folder and in its subfolder of the split."""
    places = [place for place in ("", split) if os.path.isdir(os.path.join(folder, place))]
    with files.reading(folder):
        return [
            os.path.join(place, name)
            for place in places
            for name in files.names(os.path.join(folder, place))
        ]


def _parts(name: str) -> Mapping[str, Any]:
    match = _SHARD.fullmatch(os.path.basename(name))
    assert match is not None
    return match.groupdict()


def _look(
    folder: str, shards: Mapping[str, Sequence[str]], form: str, num_processes: int
) -> dict[str, list[_Found]]:
    names = [name for split in SPLITS for name in shards[split]]
    total = sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    found: dict[str, _Found] = {}
    tasks = [(folder, name, form) for name in names]
    with (
        Progress("describe", total >> 20, "MiB") as progress,
        contextlib.closing(run_tasks(_look_at, tasks, num_processes)) as messages,
    ):
        for message in messages:
            if isinstance(message, int):
                progress.advance(message)
            else:
                found[message.info.name] = message
    return {split: [found[name] for name in shards[split]] for split in SPLITS}


def _look_at(task: tuple[str, str, str], advance: Callable[[int], None]) -> _Found:
    """Reads one shard in a worker process."""
    folder, name, form = task
    path = os.path.join(folder, name)
    count = count_records(path)
    records = RecordReader([path], [count])
    num_bytes, sha256 = files.hash_file(path)
    found = _Found(ShardInfo(name, count, num_bytes, sha256))
    for index in range(count):
        try:
            example = parse_example(records.read(index), FORMATS[form])
            check_image(example.encoded)
        except BadRecord as error:
            found.bad.append(f"{error}, in {records.place(index)}")
            continue
        found.labels[example.label] += 1
        if example.label not in found.names:
            found.names[example.label] = (
                _text(example, "image/class/synset"),
                _text(example, "image/class/text"),
            )
    advance(num_bytes >> 20)
    return found


def _text(example: Example, name: str) -> str:
    values = example.features[name].bytes_list.value if name in example.features else ()
    return os.fsdecode(values[0]) if values else ""


def _classes(
    folder: str,
    found: Mapping[str, Sequence[_Found]],
    form: str,
    label_base: int | None,
    num_classes: int | None,
) -> tuple[int, list[tuple[str, str]]]:
    """Returns the label of the first class, and the synset and name of each class."""
    counts: collections.Counter = collections.Counter()
    names: dict[int, tuple[str, str]] = {}
    for shard in (*found["train"], *found["validation"]):
        counts.update(shard.labels)
        names.update(shard.names)
    lowest, highest = min(counts), max(counts)
    base = label_base
    if base is None:
        base = 0 if form == "tfds" or lowest == 0 else 1
    listed = _label_names(folder) if form == "tfds" else []
    count = num_classes or len(listed) or highest - base + 1
    if base not in (0, 1) or lowest < base or highest >= base + count:
        raise InputError(
            f"Labels must be from {base} to {base + count - 1}, for {count} classes from "
            f"label_base={base}. Received: labels from {lowest} to {highest} in {folder!r}. Set "
            "label_base (0 or 1) and num_classes to match."
        )
    absent = sorted(set(range(base, base + count)) - counts.keys())
    if absent and not (num_classes or listed):
        raise InputError(
            f"Every class must have an example, unless num_classes is given. Received: labels up "
            f"to {highest} in {folder!r}, without {len(absent)} of those below, the first "
            f"{absent[0]}. Give num_classes, and label_base if needed."
        )
    result = []
    for label in range(base, base + count):
        synset, text = names.get(label, ("", ""))
        text = text or (listed[label - base] if listed else synset) or f"class {label}"
        result.append((synset or text, text))
    return base, result


def _label_names(folder: str) -> list[str]:
    """Returns the class names that tensorflow-datasets stores next to its files, if any."""
    path = os.path.join(folder, "label.labels.txt")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return file.read().split()

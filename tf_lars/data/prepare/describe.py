"""Describes shards written by another program, so that training can read them in place.

Supports the folders of `imagenet_to_gcs.py` (tensorflow/tpu; labels from 1), the TFRecord files of
tensorflow-datasets (labels from 0), and others with the features of either. Reads every record
once, checks its checksum, its label and its image, and writes `dataset.json`.
"""

import collections
import contextlib
import os
from collections.abc import Mapping, Sequence

from tf_lars import files
from tf_lars.data.prepare import output_folder, shard_contents
from tf_lars.data.prepare.process_pool import run_tasks
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.prepare.shard_contents import ClassText, ShardContents
from tf_lars.data.records import shard_names
from tf_lars.data.records.dataset_info import DATASET_FILE, SPLITS, DatasetInfo, SplitInfo
from tf_lars.data.records.shard_names import ShardName
from tf_lars.errors import InputError, require, some
from tf_lars.machine import available_cores

MOST_CLASSES = 1_000_000
"""Number of classes above which a label is taken for damage."""

_LABEL_NAMES = "label.labels.txt"
_NAMED_BAD_RECORDS = 10


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
      folder: Local folder with the shards, or with `train/` and `validation/` (or `val/`) that hold
        them; `tf_lars.data.records.shard_names` describes their names.
      label_base: Label of the first class, 0 or 1. By default 0 for tensorflow-datasets; for
        others 1, or 0 if a record has the label 0.
      num_classes: Number of classes. By default, the number of label names of tensorflow-datasets,
        or else up to the highest label.
      max_bad_images: Number of records that may lack a decodable image; training needs
        `--max_bad_records` for them.
      num_processes: Number of worker processes; by default one per core.

    Raises:
      InputError: There are no such shards, or no records in them; one is missing or damaged; labels
        do not fit the classes; or there are more bad images than allowed.
    """
    rule = f"from 1 to {MOST_CLASSES:,}"
    require(label_base in (None, 0, 1), "label_base", "0 or 1", label_base)
    require(
        num_classes is None or 1 <= num_classes <= MOST_CLASSES, "num_classes", rule, num_classes
    )
    if not os.path.isdir(folder):
        raise InputError(
            f"Shards are described in place, in a local folder. Received: {folder!r}, which is not "
            "a folder. Check the path."
        )
    shards = _shards(folder)
    listed = _label_names(folder)
    found = _read(folder, shards, num_processes or available_cores())
    form = _form(folder, found)
    bad = {split: [fault for shard in found[split] for fault in shard.bad] for split in SPLITS}
    all_bad = [fault for split in SPLITS for fault in bad[split]]
    if len(all_bad) > max_bad_images:
        named = "; ".join(all_bad[:_NAMED_BAD_RECORDS])
        raise InputError(
            "Every record must hold a decodable image and its label. Received: "
            f"{len(all_bad)} that do not: {named}. Write those shards again, or accept the records "
            f"with max_bad_images={len(all_bad)}."
        )
    base, texts = _classes(
        folder, found, form, label_base, num_classes, listed if form == "tfds" else []
    )
    info = DatasetInfo(
        name=shards["train"][0].dataset or os.path.basename(os.path.abspath(folder)),
        class_names=tuple(text for _, text in texts),
        synsets=tuple(synset for synset, _ in texts),
        splits={split: SplitInfo(tuple(s.info for s in found[split])) for split in SPLITS},
        settings={"described": True},
        report={
            split: {
                "reencoded": {"count": 0, "files": []},
                "resized": {"count": 0},
                "refused": {"count": len(bad[split]), "files": bad[split]},
            }
            for split in SPLITS
        },
        form=form,
        label_base=base,
    )
    info.save(folder)
    return info


def is_undescribed(folder: str) -> bool:
    """Returns whether a folder holds shards to `describe` but no `dataset.json`."""
    if not os.path.isdir(folder) or os.path.exists(os.path.join(folder, DATASET_FILE)):
        return False
    # An interrupted preparation leaves shards too, and notes for its next start.
    return not output_folder.is_unfinished(folder) and bool(_all_shards(folder))


def _shards(folder: str) -> dict[str, list[ShardName]]:
    """Returns the shards of each split, in the order of their names."""
    shards = _all_shards(folder)
    by_split = collections.defaultdict(list)
    for shard in shards:
        if not shard_names.is_path(shard.path):
            raise InputError(
                f"Names of shards must be printable UTF-8. Received: {shard.path!r} in {folder!r}. "
                "Rename it."
            )
        if len(shard.splits) > 1:
            several = " and ".join(sorted(shard.splits))
            raise InputError(
                "A shard belongs to one split, by its name or its folder. Received: "
                f"{shard.path!r} in {folder!r}, which names {several}. Rename or move it."
            )
        by_split[min(shard.splits, default="")].append(shard)
    for split in SPLITS:
        if not by_split[split]:
            others = [shard.path for shard in shards]
            holds = f"only {some(others, 3)}" if others else "no shards"
            raise InputError(
                f"A folder of TFRecords must hold {split} shards, such as {split}-00000-of-00010, "
                f"name-{split}.tfrecord-00000-of-00010, {split}_00.tfrecord or {split}/*.tfrecord. "
                f"Received: {folder!r} with {holds}. Name or place the {split} shards in one "
                "of these ways."
            )
        _check_series(folder, split, by_split[split])
    return {split: sorted(by_split[split]) for split in SPLITS}


def _check_series(folder: str, split: str, shards: Sequence[ShardName]) -> None:
    series = {shard.series: shard.path for shard in shards}
    if len(series) > 1:
        raise InputError(
            f"A folder must hold the {split} shards of one data set. Received: several in "
            f"{folder!r}, such as {some([*series.values()], 3)}. Move "
            "the others away."
        )
    if fault := shard_names.fault(shards):
        raise InputError(
            f"All {split} shards must exist, once. Received: {folder!r} {fault}. Copy the data set "
            "again."
        )


def _all_shards(folder: str) -> list[ShardName]:
    """Returns the shards in the folder and in the subfolders of splits."""
    places = ["", *(place for split in SPLITS for place in shard_names.folders(split))]
    with files.reading(folder):
        return [
            shard
            for place in places
            if os.path.isdir(os.path.join(folder, place))
            for name in files.names(os.path.join(folder, place))
            if (shard := shard_names.parse(os.path.join(place, name)))
            and os.path.isfile(os.path.join(folder, place, name))
        ]


def _read(
    folder: str, shards: Mapping[str, Sequence[ShardName]], num_processes: int
) -> dict[str, list[ShardContents]]:
    names = [shard.path for split in SPLITS for shard in shards[split]]
    total = sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    found: dict[str, ShardContents] = {}
    tasks = [(folder, name, None) for name in names]
    with (
        Progress("describe", total >> 20, "MiB") as progress,
        contextlib.closing(run_tasks(shard_contents.read, tasks, num_processes)) as messages,
    ):
        for message in messages:
            if isinstance(message, int):
                progress.advance(message)
            else:
                found[message.info.name] = message
    for split in SPLITS:
        if not any(found[shard.path].info.num_examples for shard in shards[split]):
            raise InputError(
                f"Every split must hold records. Received: {folder!r}, whose "
                f"{len(shards[split])} {split} shards hold none. Write them again."
            )
    return {split: [found[shard.path] for shard in shards[split]] for split in SPLITS}


def _form(folder: str, found: Mapping[str, Sequence[ShardContents]]) -> str:
    """Returns the format of all records."""
    forms = {
        shard.form: shard.info.name for split in SPLITS for shard in found[split] if shard.form
    }
    if len(forms) > 1:
        raise InputError(
            "All shards must have the same features. Received: those of "
            f"{' and '.join(f'{form} in {name}' for form, name in forms.items())}, in {folder!r}. "
            "Move the others away."
        )
    return next(iter(forms), "standard")


def _classes(
    folder: str,
    found: Mapping[str, Sequence[ShardContents]],
    form: str,
    label_base: int | None,
    num_classes: int | None,
    listed: Sequence[str],
) -> tuple[int, list[ClassText]]:
    """Returns the label of the first class, and the identifier and name of each class."""
    counts: collections.Counter = collections.Counter()
    texts: dict[int, ClassText] = {}
    for shard in (*found["train"], *found["validation"]):
        counts.update(shard.labels)
        texts.update(shard.texts)
    if not counts:
        raise InputError(
            f"A data set must hold a good record. Received: {folder!r} with bad ones only. Write "
            "its shards again."
        )
    lowest, highest = min(counts), max(counts)
    base = label_base
    if base is None:
        base = 0 if form == "tfds" or lowest == 0 else 1
    count = num_classes or len(listed) or highest - base + 1
    if listed and len(listed) != count:
        raise InputError(
            f"{_LABEL_NAMES} must name every class. Received: {len(listed)} names in {folder!r} "
            f"for num_classes={num_classes}. Correct one of them."
        )
    end = base + min(count, MOST_CLASSES)
    if lowest < base or highest >= end:
        raise InputError(
            f"Labels must be from {base} to {end - 1}, for {count} "
            f"classes from label_base={base}. Received: labels from {lowest} to {highest} in "
            f"{folder!r}. Set label_base (0 or 1) and num_classes to match."
        )
    absent = [label for label in range(base, base + count) if label not in counts]
    if absent and not num_classes:
        named = f"{_LABEL_NAMES} names {len(listed)}" if listed else f"labels are up to {highest}"
        raise InputError(
            f"Every class must have an example, unless num_classes is given. Received: "
            f"{folder!r}, where {named}, without {len(absent)} of those below, the first "
            f"{absent[0]}. Give num_classes, and label_base if needed."
        )
    result = []
    for label in range(base, base + count):
        synset, text = texts.get(label, ("", ""))
        text = text or (listed[label - base] if listed else synset) or f"class {label}"
        result.append(ClassText(synset or text, text))
    return base, result


def _label_names(folder: str) -> list[str]:
    """Returns the class names that tensorflow-datasets stores next to its files, one per line.

    Raises:
      InputError: The file is not UTF-8, or has an empty line between others or a name twice.
    """
    path = os.path.join(folder, _LABEL_NAMES)
    if not os.path.exists(path):
        return []
    try:
        with files.reading(path), open(path, encoding="utf-8-sig", newline="\n") as file:
            names = [line.strip() for line in file.read().rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{_LABEL_NAMES} must be UTF-8. Received: {path!r} ({error}). Save it as UTF-8."
        ) from error
    lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name or name in lines:
            fault = f"line {number}, which is empty"
            if name:
                fault = f"{name!r} in lines {lines[name]} and {number}"
            raise InputError(
                f"{_LABEL_NAMES} must hold one name per line, each once. Received: {fault}, of "
                f"{path!r}. Correct it."
            )
        lines[name] = number
    return names

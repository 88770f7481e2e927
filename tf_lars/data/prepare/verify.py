"""Checks a prepared data set as training does, and every shard against its SHA-256."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tf_lars.data.prepare import shard_contents
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.prepare.shard_contents import ShardContents
from tf_lars.data.records.dataset_info import DATASET_FILE, DatasetInfo, ShardInfo
from tf_lars.data.records.tfrecord import DamagedShard
from tf_lars.errors import InputError, some
from tf_lars.machine import available_cores


def verify(data_dir: str | os.PathLike[str]) -> DatasetInfo:
    """Reads every record, and compares the shards with `dataset.json`.

    Raises:
        InputError: `DatasetInfo.load` fails; a shard has another SHA-256 or number of records; a
            label is not that of a class; a class of a prepared data set has no example; or more
            records are bad than when the data set was described.
    """
    data_dir = os.fspath(data_dir)
    info = DatasetInfo.load(data_dir)
    shards = [shard for split in info.splits.values() for shard in split.shards]

    def read(shard: ShardInfo) -> ShardContents | DamagedShard:
        try:
            return shard_contents.read((data_dir, shard.name, info.form), lambda count: None)
        except DamagedShard as error:
            return error

    contents: list[ShardContents] = []
    different = []
    # Hashing and decoding release the interpreter lock, so threads use more than one core.
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        Progress("verify", len(shards), "shards") as progress,
    ):
        for shard, found in zip(shards, pool.map(read, shards), strict=True):
            progress.advance(1)
            if isinstance(found, DamagedShard):
                different.append(f"{shard.name} (damaged at its record {found.record}, from 0)")
            elif found.info.sha256 != shard.sha256:
                different.append(f"{shard.name} ({found.bad[0]})" if found.bad else shard.name)
            else:
                contents.append(found)
    if different:
        raise InputError(
            f"Every shard must have the SHA-256 recorded in {DATASET_FILE}. Received: "
            f"{len(different)} of {len(shards)} that differ in {data_dir!r}: "
            f"{some(different)}. Copy the data set again, or prepare it with overwrite."
        )
    _check_counts(shards, contents)
    _check_bad(info, contents)
    _check_labels(info, contents)
    return info


def _check_counts(shards: Sequence[ShardInfo], contents: Sequence[ShardContents]) -> None:
    wrong = [
        f"{shard.name} with {found.info.num_examples} instead of {shard.num_examples}"
        for shard, found in zip(shards, contents, strict=True)
        if found.info.num_examples != shard.num_examples
    ]
    if wrong:
        raise InputError(
            f"{DATASET_FILE} must count the records of every shard. Received: {some(wrong)}. "
            "Correct it, or prepare the data set again."
        )


def _check_bad(info: DatasetInfo, contents: Sequence[ShardContents]) -> None:
    """Checks the number of bad records: those of a described data set stay in its shards."""
    allowed = info.num_refused if info.settings.get("described") else 0
    bad = [fault for found in contents for fault in found.bad]
    if len(bad) > allowed:
        raise InputError(
            "Every record must hold a decodable image and its label, except those listed in "
            f"{DATASET_FILE}. Received: {len(bad)} instead of {allowed} that do not: "
            f"{some(bad)}. Prepare the data set again, or train with "
            f"--max_bad_records={len(bad)}."
        )


def _check_labels(info: DatasetInfo, contents: Sequence[ShardContents]) -> None:
    labels = {label for found in contents for label in found.labels}
    wrong = sorted(labels.difference(info.labels))
    if wrong:
        raise InputError(
            f"Labels must be from {info.labels[0]} to {info.labels[-1]}, for the "
            f"{info.num_classes} classes in {DATASET_FILE}. Received: records with {some(wrong)}. "
            "Correct it, or prepare the data set again."
        )
    absent = [info.class_names[i] for i, label in enumerate(info.labels) if label not in labels]
    # A described data set may have been given more classes than it has examples of.
    if absent and "plan" in info.settings and not info.num_refused:
        raise InputError(
            f"Every class in {DATASET_FILE} must have an example. Received: {len(absent)} without "
            f"one: {some(absent)}. Correct it, or prepare the data set again."
        )

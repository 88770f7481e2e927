"""Preparation of TFRecord shards from image files: on every core, resumable and reproducible.

The same images and settings give the same bytes with any number of processes and after any number
of interruptions.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tf_lars.data.prepare import ilsvrc2012
from tf_lars.data.prepare.encode import EncodingSettings
from tf_lars.data.prepare.ilsvrc2012 import Ilsvrc2012Archives
from tf_lars.data.prepare.image_folder import ImageFolder
from tf_lars.data.prepare.output_folder import OutputFolder
from tf_lars.data.prepare.process_pool import run_tasks
from tf_lars.data.prepare.progress_bar import Progress
from tf_lars.data.prepare.shard_writer import ShardResult, ShardTask, write_task
from tf_lars.data.prepare.sharding import ImageSource, Plan, make_plan
from tf_lars.data.records.dataset_info import FORMAT_VERSION, DatasetInfo, SplitInfo
from tf_lars.errors import InputError, require
from tf_lars.machine import available_cores

# Maximum number of files that `dataset.json` lists by name; it counts all of them.
LISTED_FILES = 1000


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of a preparation.

    Args:
        input_dir: Local folder with `train/<class>/*` and `val/<class>/*` (or `validation/`), or
            with the three archives of ILSVRC2012 (`tf_lars.data.prepare.ilsvrc2012`).
        output_dir: Folder for the shards, local or remote; created if needed.
        name: Name of the data set; by default that of the input folder, or ILSVRC2012.
        train_shards: Number of training shards, at most that of images; by default, shards of
            about 128 MiB.
        validation_shards: Number of validation shards, as for training.
        num_processes: Number of worker processes; by default one per available core.
        max_bad_images: Number of files that may be skipped because they are not images or damaged.
        overwrite: Whether to replace prepared data in the output folder: a finished data set, or an
            unfinished one of other images or settings. Other files are never touched.
        shuffle_seed: Seed of the order of the training images.
        encoding: Settings of what is accepted, resized, turned and re-encoded.
    """

    input_dir: str
    output_dir: str
    name: str | None = None
    train_shards: int | None = None
    validation_shards: int | None = None
    num_processes: int | None = None
    max_bad_images: int = 0
    overwrite: bool = False
    shuffle_seed: int = 0
    encoding: EncodingSettings = field(default_factory=EncodingSettings)

    def __post_init__(self) -> None:
        for name, lowest in (
            ("train_shards", 1),
            ("validation_shards", 1),
            ("num_processes", 1),
            ("max_bad_images", 0),
        ):
            value = getattr(self, name)
            holds = value is None or value >= lowest
            require(holds, name, f"at least {lowest}", value, "Leave it out for the default.")


@dataclass(frozen=True)
class PrepareReport:
    """Result of one call: shards written, shards kept from an earlier call, images, seconds."""

    shards_written: int
    shards_kept: int
    images_written: int
    seconds: float


def prepare_images(config: PrepareConfig) -> tuple[DatasetInfo, PrepareReport]:
    """Writes images as TFRecord shards with a `dataset.json`.

    JPEG files are stored byte for byte unless they are to be resized or turned, other images as
    described in `tf_lars.data.prepare.encode.to_jpeg`. Another call continues after an
    interruption, or returns immediately if everything is done. Calls for the same local folder wait
    for each other.

    Raises:
        InputError: The input has another layout, more than `max_bad_images` files are not images,
            or the output folder holds something else.
    """
    started = time.monotonic()
    num_processes = config.num_processes or available_cores()
    source = open_source(config.input_dir)
    plan = make_plan(
        source.list_images(num_processes),
        config.shuffle_seed,
        {"train": config.train_shards, "validation": config.validation_shards},
    )
    name = config.name or source.name
    settings = {"shuffle_seed": config.shuffle_seed, **config.encoding.recorded()}
    plan_hash = plan.fingerprint(FORMAT_VERSION, name, sorted(settings.items()))
    folder = OutputFolder(config.output_dir, plan_hash)
    folder.create()
    results: list[ShardResult] = []
    with folder.exclusive() as lock:
        info = folder.finished_dataset(config.overwrite)
        if info is not None:
            folder.tidy()  # a call that was killed at its very end may have left its notes
            _check_refused(info, config.max_bad_images)
        else:
            folder.begin()
            tasks = [
                ShardTask(source, folder, config.encoding, plan.synsets, plan.class_names, shard)
                for shard in plan.shards
            ]
            results = _write_shards(tasks, plan.num_images, num_processes, lock)
            info = _dataset_info(name, plan, {"plan": plan_hash, **settings}, results)
            _check_refused(info, config.max_bad_images)
            folder.finish(info)
    written = [result.shard for result in results if not result.kept]
    return info, PrepareReport(
        shards_written=len(written),
        shards_kept=len(plan.shards) - len(written),
        images_written=sum(shard.num_examples for shard in written),
        seconds=time.monotonic() - started,
    )


def open_source(input_dir: str) -> ImageSource:
    """Returns the ILSVRC2012 archives if the folder holds one of them, otherwise an image folder.

    Raises:
        InputError: The folder holds both.
    """
    if not ilsvrc2012.is_among(input_dir):
        return ImageFolder(input_dir)
    if os.path.isdir(os.path.join(input_dir, "train")):
        raise InputError(
            "The input folder must hold the ILSVRC2012 archives or a folder `train`. Received: "
            f"{input_dir!r} with both. Move one of them away."
        )
    return Ilsvrc2012Archives(input_dir)


def _write_shards(
    tasks: Sequence[ShardTask], num_images: int, num_processes: int, lock: Sequence[int]
) -> list[ShardResult]:
    """Writes every shard in worker processes; returns the results in the order of the plan."""
    results = []
    with (
        Progress("prepare", num_images, "images") as progress,
        contextlib.closing(run_tasks(write_task, tasks, num_processes, lock)) as messages,
    ):
        for message in messages:
            if isinstance(message, int):
                progress.advance(message)
            else:
                results.append(message)
    return sorted(results, key=lambda result: result.shard.name)


def _dataset_info(
    name: str, plan: Plan, settings: Mapping[str, Any], results: Sequence[ShardResult]
) -> DatasetInfo:
    splits = {}
    report: dict[str, Any] = {}
    for split, shard_plans in plan.splits.items():
        names = {shard.name for shard in shard_plans}
        mine = [result for result in results if result.shard.name in names]
        splits[split] = SplitInfo(tuple(result.shard for result in mine))
        report[split] = {
            "resized": {"count": sum(result.num_resized for result in mine)},
            "oriented": {"count": sum(result.num_oriented for result in mine)},
        }
        report[split] |= {
            kind: {"count": len(notes), "files": [list(note) for note in notes[:LISTED_FILES]]}
            for kind, notes in (
                ("reencoded", sorted(note for result in mine for note in result.reencoded)),
                ("refused", sorted(note for result in mine for note in result.refused)),
            )
        }
    return DatasetInfo(name, plan.class_names, plan.synsets, splits, settings, report)


def _check_refused(info: DatasetInfo, max_bad_images: int) -> None:
    refused = [info.report[split]["refused"] for split in info.splits]
    count = sum(entry["count"] for entry in refused)
    if count > max_bad_images:
        notes = [note for entry in refused for note in entry["files"]]
        listed = ", ".join(f"{file} ({reason})" for file, reason in notes[:10])
        raise InputError(
            f"Every input file must be an image that decodes to its end. Received: {count} that "
            f"{'does' if count == 1 else 'do'} not: {listed}{', ...' if count > 10 else ''}. "
            f"Repair or remove them, or skip them with max_bad_images={count}."
        )
    for split, split_info in info.splits.items():
        if split_info.num_examples == 0:
            raise InputError(
                f"Every split must hold an image that decodes. Received: none in {split}. "
                "Check the input folder."
            )

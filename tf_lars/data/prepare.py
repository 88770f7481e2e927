"""From an image folder to TFRecord shards, on every core, resumable and reproducible.

The same images and settings give the same bytes, on any number of processes and however often
the work was interrupted.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tf_lars.data import files, jpeg, records
from tf_lars.data.image_folder import ImageFile, Plan, ShardPlan, make_plan
from tf_lars.data.output_folder import OutputFolder
from tf_lars.data.progress import Progress
from tf_lars.data.records import DatasetInfo, ShardInfo, SplitInfo
from tf_lars.data.workers import available_cores, run_tasks
from tf_lars.errors import InputError

# Files that `dataset.json` lists by name; it counts all of them.
LISTED_FILES = 1000

_IMAGES_PER_MESSAGE = 64


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare, and how.

    Args:
        input_dir: Local folder with `train/<class>/*` and `val/<class>/*` (or `validation/`).
        output_dir: Folder for the shards, local or remote; created if need be.
        name: Name of the data set; by default that of the input folder.
        train_shards: Training shards; by default about 128 MiB each. Never more than images.
        validation_shards: The same for validation.
        num_processes: Worker processes; by default one per available core.
        max_bad_images: Files that may be skipped because they are no image, or a damaged one.
        overwrite: Replace prepared data in the output folder: a finished data set, or an
            unfinished one of other images or settings. Other files are never touched.
        shuffle_seed: Seed of the training images' order.
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

    def __post_init__(self) -> None:
        for setting, lowest in (
            ("train_shards", 1),
            ("validation_shards", 1),
            ("num_processes", 1),
            ("max_bad_images", 0),
        ):
            value = getattr(self, setting)
            if value is not None and value < lowest:
                raise InputError(
                    f"{setting} must be at least {lowest}. Received: {value}. Leave it out for "
                    "the default."
                )


@dataclass(frozen=True)
class PrepareReport:
    """What one call did: shards written, shards kept from an earlier call, images, seconds."""

    shards_written: int
    shards_kept: int
    images_written: int
    seconds: float


class FileNote(NamedTuple):
    """An image that was re-encoded or refused, and what it was."""

    file: str
    reason: str


@dataclass(frozen=True)
class _ShardTask:
    input_dir: str
    output: OutputFolder
    class_names: tuple[str, ...]
    shard: ShardPlan


@dataclass(frozen=True)
class _ShardResult:
    shard: ShardInfo
    reencoded: tuple[FileNote, ...]
    refused: tuple[FileNote, ...]
    kept: bool = False


def prepare_images(config: PrepareConfig) -> tuple[DatasetInfo, PrepareReport]:
    """Writes an image folder as TFRecord shards with a `dataset.json`.

    JPEG files go in byte for byte, other images as `tf_lars.data.jpeg.to_jpeg` describes. Calling
    it again continues after an interruption, and returns at once when all is done. Calls for one
    local folder wait for each other.

    Raises:
        InputError: The input is not laid out as described, more than `max_bad_images` files are
            no images, or the output folder holds something else.
    """
    started = time.monotonic()
    plan = make_plan(
        config.input_dir,
        config.shuffle_seed,
        {"train": config.train_shards, "validation": config.validation_shards},
    )
    name = config.name or os.path.basename(os.path.abspath(config.input_dir))
    plan_hash = plan.fingerprint(
        records.FORMAT_VERSION, jpeg.JPEG_QUALITY, config.shuffle_seed, name
    )
    folder = OutputFolder(config.output_dir, plan_hash)
    folder.create()
    results: list[_ShardResult] = []
    with folder.exclusive():
        info = folder.finished_dataset(config.overwrite)
        if info is not None:
            _check_refused(info, config.max_bad_images)
        else:
            folder.begin()
            results = _write_shards(config, plan, folder)
            settings = {
                "plan": plan_hash,
                "shuffle_seed": config.shuffle_seed,
                "jpeg_quality": jpeg.JPEG_QUALITY,
            }
            info = _dataset_info(name, plan, settings, results)
            _check_refused(info, config.max_bad_images)
            folder.finish(info)
    written = [result.shard for result in results if not result.kept]
    return info, PrepareReport(
        shards_written=len(written),
        shards_kept=len(plan.shards) - len(written),
        images_written=sum(shard.num_examples for shard in written),
        seconds=time.monotonic() - started,
    )


def _write_shards(config: PrepareConfig, plan: Plan, folder: OutputFolder) -> list[_ShardResult]:
    """Has every shard written; returns the results in the order of the plan."""
    tasks = [_ShardTask(config.input_dir, folder, plan.class_names, shard) for shard in plan.shards]
    results = []
    num_processes = config.num_processes or available_cores()
    with (
        Progress("prepare", plan.num_images, "images") as progress,
        contextlib.closing(run_tasks(_write_shard, tasks, num_processes)) as messages,
    ):
        for message in messages:
            if isinstance(message, int):
                progress.advance(message)
            else:
                results.append(message)
    return sorted(results, key=lambda result: result.shard.name)


def _write_shard(task: _ShardTask, advance: Callable[[int], None]) -> _ShardResult:
    """Writes one shard in a worker process, or keeps it if it is there and whole."""
    result = _kept_shard(task)
    if result is not None:
        advance(len(task.shard.files))
        return result
    reencoded: list[FileNote] = []
    refused: list[FileNote] = []

    def examples() -> Iterator[bytes]:
        for done, file in enumerate(task.shard.files, start=1):
            if done % _IMAGES_PER_MESSAGE == 0:
                advance(_IMAGES_PER_MESSAGE)
            try:
                image = jpeg.to_jpeg(_read(task.input_dir, file))
            except jpeg.BadImage as bad:
                refused.append(FileNote(file.path, str(bad)))
                continue
            if image.reencoded_from is not None:
                reencoded.append(FileNote(file.path, image.reencoded_from))
            class_name = task.class_names[file.label - 1]
            yield records.example_bytes(
                encoded=image.data,
                label=file.label,
                synset=class_name,
                text=class_name,
                filename=os.path.basename(file.path),
                height=image.header.height,
                width=image.header.width,
                channels=image.header.channels,
            )
        advance(len(task.shard.files) % _IMAGES_PER_MESSAGE)

    shard = records.write_shard(os.path.join(task.output.path, task.shard.name), examples())
    result = _ShardResult(shard, tuple(reencoded), tuple(refused))
    task.output.write_note(task.shard.name, asdict(result))
    return result


def _kept_shard(task: _ShardTask) -> _ShardResult | None:
    """The result noted by an earlier call of the same plan, if the shard still has its hash."""
    path = os.path.join(task.output.path, task.shard.name)
    note = task.output.read_note(task.shard.name)
    if note is None or not files.exists(path):
        return None
    shard = ShardInfo(**note["shard"])
    if files.hash_file(path) != (shard.num_bytes, shard.sha256):
        return None
    reencoded, refused = (
        tuple(FileNote(*entry) for entry in note[kind]) for kind in ("reencoded", "refused")
    )
    return _ShardResult(shard, reencoded, refused, kept=True)


def _read(input_dir: str, file: ImageFile) -> bytes:
    path = os.path.join(input_dir, file.path)
    try:
        with open(path, "rb") as opened:
            data = opened.read()
    except OSError as error:
        raise InputError(
            f"Every input file must be readable. Received: {error}. Check the file, then run again."
        ) from error
    if len(data) != file.num_bytes:
        raise InputError(
            f"Input files must not change during the preparation. Received: {path!r} of "
            f"{len(data)} bytes instead of {file.num_bytes}. Run again."
        )
    return data


def _dataset_info(
    name: str, plan: Plan, settings: Mapping[str, Any], results: Sequence[_ShardResult]
) -> DatasetInfo:
    splits = {}
    report: dict[str, Any] = {}
    for split, shard_plans in plan.splits.items():
        names = {shard.name for shard in shard_plans}
        mine = [result for result in results if result.shard.name in names]
        splits[split] = SplitInfo(tuple(result.shard for result in mine))
        report[split] = {
            kind: {"count": len(notes), "files": [list(note) for note in notes[:LISTED_FILES]]}
            for kind, notes in (
                ("reencoded", sorted(note for result in mine for note in result.reencoded)),
                ("refused", sorted(note for result in mine for note in result.refused)),
            )
        }
    return DatasetInfo(name, plan.class_names, plan.class_names, splits, settings, report)


def _check_refused(info: DatasetInfo, max_bad_images: int) -> None:
    refused = [info.report[split]["refused"] for split in info.splits]
    count = sum(entry["count"] for entry in refused)
    if count > max_bad_images:
        notes = [note for entry in refused for note in entry["files"]]
        listed = ", ".join(f"{file} ({reason})" for file, reason in notes[:10])
        raise InputError(
            f"Every input file must be an image that decodes to its end. Received: {count} that "
            f"{'does' if count == 1 else 'do'} not: {listed}{', ...' if count > 10 else ''}. "
            f"Repair or remove them, or skip as many with max_bad_images={count}."
        )
    for split, split_info in info.splits.items():
        if split_info.num_examples == 0:
            raise InputError(
                f"Every split must hold an image that decodes. Received: none in {split}. "
                "Check the input folder."
            )

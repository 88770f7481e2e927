"""Builds the input pipelines that training settings describe."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from launch.run.data_settings import DataSettings
from launch.run.settings import TrainingSettings
from tf_lars import machine
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.data.prepare import describe
from tf_lars.data.records import example_reader
from tf_lars.data.records.dataset_info import DATASET_FILE, SPLITS, DatasetInfo
from tf_lars.data.synthetic_data import SyntheticData
from tf_lars.errors import InputError, require

if TYPE_CHECKING:
    from tf_lars.data.batch_schedule import BatchSizeSchedule
    from tf_lars.data.image_input import EvaluationInput, TrainingInput


def description(settings: DataSettings) -> DatasetInfo:
    """Returns the description of the data of a run.

    Raises:
      InputError: The data is unusable: see `DatasetInfo.load`.
    """
    if settings.data:
        return SyntheticData.parse(settings.data).info()
    return DatasetInfo.load(settings.data_dir)


def readers(settings: TrainingSettings) -> dict[str, example_reader.ExampleReader]:
    """Returns the readers of this process by split; none for synthetic data.

    Raises:
      InputError: The data is unusable.
    """
    return {
        split: example_reader.open_split(settings.data_dir, split, settings.max_bad_records)
        for split in (() if settings.data else SPLITS)
    }


def describe_once(data_dir: str, *, may_write: bool = True) -> None:
    """Writes the `dataset.json` of shards that another program has written without one.

    Args:
      data_dir: Folder of the shards.
      may_write: Whether the file may be written; a dry run writes nothing.

    Raises:
      InputError: If the shards are bad, or `dataset.json` is missing and may not be written.
    """
    if describe.is_undescribed(data_dir):
        if not may_write:
            raise InputError(
                f"A dry run needs the {DATASET_FILE} of the data, but does not write it. Received: "
                f"{data_dir!r} without one. Run any other program, such as launch.show_input, "
                "which reads the shards once and writes it."
            )
        print(f"{data_dir}: reading the shards once to write their {DATASET_FILE}", flush=True)
        describe.describe(data_dir)


def open_folder(settings: TrainingSettings, batch_size: int) -> None:
    """Checks that a program can make batches of the data, and describes the data if need be.

    Raises:
      InputError: There is no data, or a batch does not fit into memory.
    """
    require(settings.data_dir, "--data_dir", "a prepared folder", settings.data_dir)
    _require_memory(settings, batch_size)
    describe_once(settings.data_dir)


def _require_memory(settings: TrainingSettings, batch_size: int) -> None:
    """Checks that a batch of decoded images fits into the memory of this machine.

    Raises:
      InputError: It does not.
    """
    size = settings.largest_image_size
    needed, there = batch_size * 3 * size**2, machine.available_memory_bytes()
    if needed > there:
        raise InputError(
            f"A batch of images must fit into the memory of this machine, of which {there:,} bytes "
            f"are available. Received: {batch_size:,} images of {size} px, {needed:,} bytes. "
            "Use a smaller batch or smaller images."
        )


def training(
    settings: TrainingSettings, global_batch_size: "int | BatchSizeSchedule"
) -> "TrainingInput":
    """Returns the training input.

    Args:
      settings: Settings of the run.
      global_batch_size: Images per step, over all replicas, or a schedule of it.
    """
    from tf_lars.data.image_input import TrainingInput
    from tf_lars.data.mixing import Mixing

    schedule = settings.image_size_schedule
    make: Callable[..., TrainingInput] = TrainingInput
    if settings.data:
        from tf_lars.data.synthetic_input import SyntheticTrainingInput

        data = SyntheticData.parse(settings.data)
        make = functools.partial(SyntheticTrainingInput, data=data)
    return make(
        settings.data_dir,
        global_batch_size,
        image_size=ImageSizeSchedule.parse(schedule) if schedule else settings.image_size,
        augmentation=settings.augmentation,
        crop_fraction=settings.crop_fraction,
        seed=settings.seed,
        max_bad_records=settings.max_bad_records,
        randaugment_magnitude=settings.randaugment_magnitude,
        mixing=Mixing(
            settings.mixup_alpha, settings.cutmix_alpha, settings.random_erasing_probability
        ),
        cache=settings.cache,
        flip=settings.flip,
        crop_padding=settings.crop_padding,
        crop_padding_mode=settings.crop_padding_mode,
    )


def evaluation_batch_size(settings: TrainingSettings, replicas: int) -> int:
    """Returns the flag's value, or by default the first batch, at most 256 per replica."""
    share = max(1, min(256, settings.global_batch_size // replicas))
    return settings.evaluation_batch_size or share * replicas


def evaluation(settings: TrainingSettings, global_batch_size: int) -> "EvaluationInput":
    """Returns the evaluation input; the arguments are those of `training`."""
    from tf_lars.data.image_input import EvaluationInput

    make: Callable[..., EvaluationInput] = EvaluationInput
    if settings.data:
        from tf_lars.data.synthetic_input import SyntheticEvaluationInput

        data = SyntheticData.parse(settings.data)
        make = functools.partial(SyntheticEvaluationInput, data=data)
    return make(
        settings.data_dir,
        global_batch_size,
        image_size=settings.image_size,
        crop_fraction=settings.crop_fraction,
        max_bad_records=settings.max_bad_records,
        cache=settings.cache,
    )

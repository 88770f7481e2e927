"""The input pipelines that the flags of `launch.flags.define_input` describe."""

from typing import TYPE_CHECKING, Any

from absl import flags

from tf_lars.data import describe
from tf_lars.data.records import DATASET_FILE
from tf_lars.errors import InputError

if TYPE_CHECKING:
    from tf_lars.data.imagenet import EvaluationInput, TrainingInput


def describe_once(data_dir: str) -> None:
    """Writes the `dataset.json` of shards that another program has left without one.

    Raises:
      InputError: the shards are bad, or this is a dry run, which writes nothing.
    """
    if describe.is_undescribed(data_dir):
        if "dry_run" in flags.FLAGS and flags.FLAGS["dry_run"].value:
            raise InputError(
                f"A dry run needs the {DATASET_FILE} of the data, and does not write it. Received: "
                f"{data_dir!r} without one. Any other program, such as launch.show_input, reads "
                "the shards once and writes it."
            )
        print(f"{data_dir}: reading the shards once, to write their {DATASET_FILE}", flush=True)
        describe.describe(data_dir)


def training(settings: Any, global_batch_size: int) -> "TrainingInput":
    """Returns the training input.

    Args:
      settings: has the flags as attributes, as `TrainingSettings` and absl's FLAGS do.
      global_batch_size: images per step over all replicas.
    """
    from tf_lars.data.image_size import ImageSizeSchedule
    from tf_lars.data.imagenet import TrainingInput
    from tf_lars.data.mixing import Mixing

    schedule = settings.image_size_schedule
    return TrainingInput(
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
    )


def evaluation_batch_size(settings: Any, replicas: int) -> int:
    """Returns the flag's, or a replica's share of a training batch, at most 256, for each."""
    share = max(1, min(256, settings.global_batch_size // replicas))
    return settings.evaluation_batch_size or share * replicas


def evaluation(settings: Any, global_batch_size: int) -> "EvaluationInput":
    """Returns the evaluation input; the arguments are those of `training`."""
    from tf_lars.data.imagenet import EvaluationInput

    return EvaluationInput(
        settings.data_dir,
        global_batch_size,
        image_size=settings.image_size,
        crop_fraction=settings.crop_fraction,
        max_bad_records=settings.max_bad_records,
        cache=settings.cache,
    )

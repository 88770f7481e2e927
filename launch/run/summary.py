"""Summary of a run in lines of text, printed by a dry run and before training."""

from launch.run.settings import TrainingSettings
from tf_lars.data.records.dataset_info import DatasetInfo


def data(info: DatasetInfo) -> str:
    """Returns the line about the data."""
    return (
        f"data        {info.name}: {info.splits['train'].num_examples:,} training and "
        f"{info.splits['validation'].num_examples:,} validation images, {info.num_classes} classes"
    )


def model(settings: TrainingSettings, description: object) -> str:
    """Returns the line about the model.

    Args:
      settings: Settings of the run.
      description: A `models.Description`, or a phrase that stands for it.
    """
    return (
        f"model       {settings.model}, {description}, "
        f"{settings.image_size_schedule or settings.image_size} px, {settings.mixed_precision}"
    )


def steps(settings: TrainingSettings, num_examples: int, total_steps: int) -> str:
    """Returns the line about the steps."""
    return (
        f"steps       {total_steps:,} = {settings.epochs} epochs x "
        f"{num_examples / settings.global_batch_size:.2f}"
    )


def optimizer(settings: TrainingSettings) -> str:
    """Returns the line about the optimizer and its schedule."""
    decay = f"the schedule {settings.schedule!r}"
    if settings.schedule == "polynomial":
        decay = f"decay of power {settings.decay_power:g} to {settings.end_learning_rate:g}"
    return (
        f"optimizer   {settings.optimizer}, rate {settings.learning_rate:g} after "
        f"{settings.warmup_epochs:g} epochs of warm-up, then {decay}"
    )

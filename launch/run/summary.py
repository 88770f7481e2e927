"""Summary of a run in lines of text, printed by a dry run and before training."""

from launch.run.extension import EXTENDED_FROM, Extension
from launch.run.settings import TrainingSettings
from tf_lars.data.records.dataset_info import DatasetInfo


def data(settings: TrainingSettings, info: DatasetInfo) -> str:
    """Returns the line about the data."""
    noise = " of noise: its rate counts, its accuracy does not" if settings.data else ""
    return (
        f"data        {info.name}: {info.splits['train'].num_examples:,} training and "
        f"{info.splits['validation'].num_examples:,} validation images, {info.num_classes} classes"
        f"{noise}"
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
    if settings.batch_size_schedule:
        return (
            f"steps       {total_steps:,} in {settings.epochs} epochs, at batches by epoch of "
            f"{settings.batch_size_schedule}"
        )
    return (
        f"steps       {total_steps:,} = {settings.epochs} epochs x "
        f"{num_examples / settings.global_batch_size:.2f}"
    )


def extension(settings: TrainingSettings, extended: Extension | None) -> list[str]:
    """Returns the line about the epochs that extend a finished run, if any."""
    if extended is None:
        return []
    *_, end = extended.ends
    return [
        f"extension   of a run of {end} epochs, by {settings.epochs - end}: warm-up and decay "
        f"begin anew at step {extended.first_step:,}"
    ]


def beginning(settings: TrainingSettings) -> list[str]:
    """Returns the lines about what the run starts from, before a model is built."""
    lines = []
    if settings.initial_weights:
        lines.append(f"weights     of {settings.initial_weights}, for all layers that fit")
    if settings.freeze:
        lines.append(f"frozen      layers and variables that match {settings.freeze}")
    return lines


def results(
    settings: TrainingSettings, info: DatasetInfo, extended: Extension | None
) -> dict[str, object]:
    """Returns the entries of results.json about the data and the beginning of a run."""
    found: dict[str, object] = {"data": info.name}
    if settings.data:
        found["synthetic"] = True
    if settings.batch_size_schedule:
        found["batch_size_schedule"] = settings.batch_size_schedule
    if settings.initial_weights:
        found["initial_weights"] = settings.initial_weights
    if extended:
        found[EXTENDED_FROM] = list(extended.ends)
    return found


def optimizer(settings: TrainingSettings) -> str:
    """Returns the line about the optimizer and its schedule."""
    decay = f"the schedule {settings.schedule!r}"
    if settings.schedule == "polynomial":
        decay = f"decay of power {settings.decay_power:g} to {settings.end_learning_rate:g}"
    return (
        f"optimizer   {settings.optimizer}, rate {settings.learning_rate:g} after "
        f"{settings.warmup_epochs:g} epochs of warm-up, then {decay}"
    )

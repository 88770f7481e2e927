"""`--batch_norm_group_size`: which examples batch normalisation normalises together on a cluster.

Uses neither TensorFlow nor the model, so that a dry run can tell.
"""

import dataclasses
from typing import NamedTuple

from launch.run.settings import RECIPE_GROUP, TrainingSettings
from tf_lars import recipes
from tf_lars.data import order
from tf_lars.errors import InputError, require


class Groups(NamedTuple):
    """The groups of a run.

    Attributes:
      settings: Settings with the number of examples of a group, or None for a device's own part.
      line: Line of text for people.
    """

    settings: TrainingSettings
    line: str


def check(settings: TrainingSettings, num_workers: int) -> None:
    """Checks the groups as far as they can be checked before the devices are known.

    Args:
      settings: Settings of the run.
      num_workers: Number of worker processes, each of which has at least one device.

    Raises:
      InputError: No number of devices can form the groups.
    """
    _check_batch(settings)
    size, micro = settings.batch_norm_group_size, settings.micro_batch_size
    if not isinstance(size, int) or settings.sync_batch_norm:
        return
    share = settings.global_batch_size // num_workers
    if isinstance(micro, int) and size <= micro:
        order.check_batch_norm_group(size, share=share, replicas=1, micro_batch_size=micro)
    if size > share:
        _check_one_pass(settings)


def resolve(settings: TrainingSettings, replicas: int) -> Groups:
    """Returns the groups that a run forms on a number of devices.

    The number of a recipe is used if these devices can form such groups. Otherwise each device
    normalises its own part, and the line says so.

    Args:
      settings: Settings of the run.
      replicas: Number of devices, which divides the global batch.

    Raises:
      InputError: The devices cannot form the groups that the user has asked for.
    """
    size, share = settings.batch_norm_group_size, settings.global_batch_size // replicas
    _check_batch(settings)
    if size != RECIPE_GROUP:
        if isinstance(size, int) and not settings.sync_batch_norm:
            _check(settings, size, share, replicas)
        return Groups(settings, f"batch norm  {_what(settings, share, replicas)}")
    settings = dataclasses.replace(settings, batch_norm_group_size=None)
    own = f"batch norm  {_what(settings, share, replicas)}"
    published = _published(settings)
    if published is None:
        return Groups(settings, f"{own}; no group is published for this model and batch")
    if settings.sync_batch_norm or settings.fused_batch_norm:
        return Groups(settings, f"{own}, instead of the recipe's groups of {published:,}")
    try:
        _check(settings, published, share, replicas)
    except InputError as error:
        rule = str(error).partition(". Received")[0]
        return Groups(
            settings,
            f"{own}, since this cluster cannot form the recipe's groups of {published:,}: "
            f"{rule[0].lower()}{rule[1:]}",
        )
    settings = dataclasses.replace(settings, batch_norm_group_size=published)
    return Groups(settings, f"batch norm  {_what(settings, share, replicas)}, as in the recipe")


def _check_batch(settings: TrainingSettings) -> None:
    """Checks the groups against the global batch and the other flags."""
    size, batch = settings.batch_norm_group_size, settings.global_batch_size
    others = {
        "--sync_batch_norm": settings.sync_batch_norm,
        f"--batch_norm_group_size={size}": isinstance(size, int),
    }
    if settings.fused_batch_norm and any(others.values()):
        raise InputError(
            "--fused_batch_norm normalises together what a device processes at a time. Received: "
            f"--fused_batch_norm with {next(flag for flag, given in others.items() if given)}. "
            "Leave out one of them."
        )
    if not isinstance(size, int):
        return
    if settings.sync_batch_norm and size != batch:
        raise InputError(
            f"--sync_batch_norm normalises the whole batch of {batch:,} examples together. "
            f"Received: --sync_batch_norm with --batch_norm_group_size={size}. Leave out one of "
            "them."
        )
    rule = f"a divisor of the global batch of {batch:,} examples"
    require(batch % size == 0, "--batch_norm_group_size", rule, size)


def _published(settings: TrainingSettings) -> int | None:
    recipe = recipes.for_run(settings.model, settings.global_batch_size, settings.optimizer)
    return recipe.batch_norm_group_size if recipe else None


def _check(settings: TrainingSettings, size: int, share: int, replicas: int) -> None:
    if size > share:
        _check_one_pass(settings)
    micro = settings.micro_batch_size
    order.check_batch_norm_group(
        size,
        share=share,
        replicas=replicas,
        micro_batch_size=micro if isinstance(micro, int) else None,
    )


def _check_one_pass(settings: TrainingSettings) -> None:
    """Checks that devices which normalise together can wait for each other."""
    automatic = settings.micro_batch_size == "auto"
    if automatic or settings.jit_compile:
        raise InputError(
            "Groups of batch normalisation over several devices need each device's whole share in "
            "one pass, without XLA. Received: "
            f"{'--micro_batch_size=auto' if automatic else '--jit_compile'}. Remove it, or use "
            "smaller groups."
        )


def _what(settings: TrainingSettings, share: int, replicas: int) -> str:
    """Returns what is normalised together: the settings hold a number or None."""
    size, micro = settings.batch_norm_group_size, settings.micro_batch_size
    if settings.sync_batch_norm:
        return f"over the whole batch of {settings.global_batch_size:,} examples"
    if isinstance(size, int):
        groups = f"groups of {size:,} examples"
        if size > share:
            return f"{groups}, those of {size // share:,} of {replicas:,} devices"
        return groups
    if micro == "auto":
        return "over a device's micro-batch, whose size is found by trial"
    if isinstance(micro, int) and micro < share:
        return f"over a micro-batch of {micro:,} examples"
    return f"over a device's {share:,} examples"

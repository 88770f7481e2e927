"""The number of epochs that a batch needs: the statistical part of the time to train.

Within the range of MLPerf's reference convergence points for ResNet-50 with LARS (rules 4.0.0,
batches from 1,632 to 67,840), the mean epochs to 75.9 % top-1 are interpolated between them in
log(batch). Below 1,632 they stay constant. Above 67,840 they grow like the line through all ten
points,

    E(B) = E0 (1 + B/Bc),    E0 = 34.5 epochs, Bc = 46,300,

whose root-mean-square error is 1.9 epochs. Bc is the critical batch, which needs twice the epochs
of a small batch. AlexNet takes the 100 epochs of You et al. up to a batch of 32,768. For other
models no curve is published, and the epochs must be given.
"""

import dataclasses
import functools
import math

import numpy as np

from tf_lars.errors import InputError
from tf_lars.recipes import recipes

ALEXNET_EPOCHS, ALEXNET_LARGEST_BATCH = 100.0, 32768


@dataclasses.dataclass(frozen=True)
class CriticalBatch:
    """The line E(B) = E0 (1 + B/Bc).

    Attributes:
      epochs: Epochs of a small batch, E0.
      batch_size: Critical batch, Bc, which needs twice the epochs.
    """

    epochs: float
    batch_size: float

    def __call__(self, global_batch_size: float) -> float:
        """Returns E0 (1 + B/Bc) epochs."""
        return self.epochs * (1 + global_batch_size / self.batch_size)


@functools.cache
def reference_points() -> tuple[tuple[int, float], ...]:
    """Returns `(batch, mean epochs to 75.9 %)` of the ten reference points of rules 4.0.0."""
    return tuple(
        (recipe.global_batch_size, recipe.epochs_to_target)
        for recipe in recipes.published()
        if recipe.epochs_to_target and "rules 4.0.0" in recipe.source
    )


@functools.cache
def critical_batch() -> CriticalBatch:
    """Returns the least-squares line through the reference points."""
    batches, epochs_needed = np.array(reference_points()).T
    slope, epochs = np.polyfit(batches, epochs_needed, 1)
    return CriticalBatch(float(epochs), float(epochs / slope))


def epochs_to_target(model: str, global_batch_size: float) -> tuple[float, bool]:
    """Returns the epochs that a model needs at a batch, and whether they are extrapolated.

    Args:
      model: "resnet50", to 75.9 % top-1; or "alexnet" or "alexnet_bn", for 100 epochs.
      global_batch_size: Examples per step, on all devices.

    Raises:
      InputError: No curve is published for the model, or for AlexNet at this batch.
    """
    if model in ("alexnet", "alexnet_bn") and global_batch_size <= ALEXNET_LARGEST_BATCH:
        return ALEXNET_EPOCHS, False
    if model != "resnet50":
        raise InputError(
            "The number of epochs that a batch needs is published for resnet50, and for alexnet "
            f"up to a batch of {ALEXNET_LARGEST_BATCH:,}. Received: {model!r} at "
            f"{global_batch_size:,}. Give the epochs."
        )
    batches, epochs = np.array(reference_points()).T
    value = float(np.interp(math.log(global_batch_size), np.log(batches), epochs))
    if global_batch_size <= batches[-1]:
        return value, False
    line = critical_batch()
    return value * line(global_batch_size) / line(float(batches[-1])), True

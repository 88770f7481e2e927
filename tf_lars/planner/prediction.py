"""Time to train, from what the batch needs and what the devices do."""

import dataclasses
import math

from tf_lars.errors import InputError
from tf_lars.planner.devices import Device, device
from tf_lars.planner.epochs import epochs_to_target
from tf_lars.planner.workloads import Workload, workload
from tf_lars.recipes.recipes import IMAGENET_EXAMPLES


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training run will take.

    Attributes:
      model: name of the model.
      accelerator: name of the device.
      devices: how many.
      global_batch_size: examples per step, on all devices.
      epochs: passes over the data, to the target where the planner knows it.
      epochs_extrapolated: whether the batch lies beyond all published ones.
      steps: epochs * N / B.
      step_seconds: of one step, evaluation included where the device was fitted to such times.
      communication_fraction: share of the step that the all-reduce takes and nothing hides. Of a
        fitted family, only what grows with the devices can be told from other overhead.
      overhead_fraction: share that neither depends on the images nor on the devices.
      minutes: steps * step_seconds / 60.
      images_per_second: B / step_seconds, on all devices.
      relative_error: standard error of the minutes, relative, with the epochs taken as right.
      cost: minutes * devices * price; None without a price.
      notes: what a person should know, such as extrapolation.
    """

    model: str
    accelerator: str
    devices: int
    global_batch_size: int
    epochs: float
    epochs_extrapolated: bool
    steps: int
    step_seconds: float
    communication_fraction: float
    overhead_fraction: float
    minutes: float
    images_per_second: float
    relative_error: float
    cost: float | None
    notes: tuple[str, ...]


def predict(
    *,
    model: str | Workload | None = None,
    accelerator: str | Device,
    devices: int,
    global_batch_size: int,
    epochs: float | None = None,
    num_examples: int = IMAGENET_EXAMPLES,
    price_per_device_hour: float | None = None,
) -> Plan:
    """Predicts how long training will take.

    minutes = E(B) * N / B * t(B/p, p) / 60, with the epochs E that a batch of B needs
    (`tf_lars.planner.epochs`) and the step's time t on p devices (`tf_lars.planner.devices`).

    Args:
      model: a name of workloads.csv, or a `Workload`; by default the one that the accelerator was
        measured on, "resnet50" for families with published results.
      accelerator: a family with published results (`accelerators()`), a `Hardware` described by
        its data sheet, or what `calibrate` made of short runs.
      devices: how many, at least 1.
      global_batch_size: examples per step on all devices, at least one for each.
      epochs: passes over the data; by default what `epochs_to_target` says.
      num_examples: N, training examples per epoch.
      price_per_device_hour: in any currency, for the cost.

    Raises:
      InputError: an unknown model or accelerator, a number out of its range, or a model whose
        epochs nobody has published and none are given.
    """
    if isinstance(accelerator, str):
        accelerator = device(accelerator)
    measured = accelerator.measured_on
    costs = measured if model is None or model == measured.name else workload(model)
    for name, value in (("devices", devices), ("global_batch_size", global_batch_size)):
        if not _is_whole(value) or value < 1:
            raise InputError(f"`{name}` must be a whole number of at least 1. Received: {value!r}.")
    if global_batch_size < devices:
        raise InputError(
            "Every device needs at least one image of the global batch. Received: "
            f"global_batch_size={global_batch_size} on devices={devices}. Use at most "
            f"{global_batch_size} devices, or a batch of at least {devices}."
        )
    for name, number in (
        ("epochs", epochs),
        ("num_examples", num_examples),
        ("price_per_device_hour", price_per_device_hour),
    ):
        if number is not None and not 0 < number < math.inf:
            raise InputError(f"`{name}` must be above 0. Received: {number!r}.")
    images = global_batch_size / devices
    notes = accelerator.notes(images, devices)
    extrapolated = False
    if epochs is None:
        epochs, extrapolated = epochs_to_target(costs.name, global_batch_size)
    if extrapolated:
        notes.append("the batch is beyond all published ones, and its epochs are extrapolated")
    if global_batch_size % devices:
        notes.append(f"a batch of {global_batch_size:,} does not divide among {devices:,} devices")
    steps = max(1, round(epochs * num_examples / global_batch_size))
    step = accelerator.step(costs, images, devices)
    minutes = steps * step.total / 60
    return Plan(
        model=costs.name,
        accelerator=accelerator.name,
        devices=int(devices),
        global_batch_size=int(global_batch_size),
        epochs=epochs,
        epochs_extrapolated=extrapolated,
        steps=steps,
        step_seconds=step.total,
        communication_fraction=step.communication / step.total,
        overhead_fraction=step.overhead / step.total,
        minutes=minutes,
        images_per_second=global_batch_size / step.total,
        relative_error=accelerator.error(images, devices),
        cost=None
        if price_per_device_hour is None
        else minutes / 60 * devices * price_per_device_hour,
        notes=tuple(notes),
    )


def _is_whole(value) -> bool:
    try:
        return value == int(value)
    except (TypeError, ValueError, OverflowError):
        return False

"""The time to train, from the epochs that a batch needs and the time of a step."""

import dataclasses
import math

from tf_lars.errors import InputError, require
from tf_lars.planner.devices import Device, device
from tf_lars.planner.epochs import epochs_to_target
from tf_lars.planner.examples_needed import ExamplesNeeded
from tf_lars.planner.workloads import Workload, workload
from tf_lars.recipes.recipes import IMAGENET_EXAMPLES


@dataclasses.dataclass(frozen=True)
class Plan:
    """The predicted time and cost of a training run.

    Attributes:
      model: Name of the model.
      accelerator: Name of the device.
      devices: Number of devices.
      global_batch_size: Examples per step, on all devices.
      epochs: Passes over the data, to the target accuracy where the planner knows it.
      epochs_extrapolated: Whether the batch is larger than any published one.
      steps: Number of steps, epochs * N / B.
      step_seconds: Seconds per step; includes evaluation where the device was fitted to such times.
      communication_fraction: Share of the step in which communication is not hidden. For a fitted
        family, only the part that grows with the devices can be told from other overhead.
      overhead_fraction: Share of the step that depends on neither the images nor the devices.
      minutes: Time to train, steps * step_seconds / 60.
      images_per_second: Rate of all devices together, B / step_seconds.
      relative_error: Relative standard error of the minutes, assuming that the epochs are right.
      cost: Cost of the run, minutes / 60 * devices * price; None without a price.
      notes: Remarks for the user, such as on extrapolation.
      epochs_interval: Interval of the epochs, with two chances in three; None if it is unknown.
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
    epochs_interval: tuple[float, float] | None = None

    @property
    def minutes_interval(self) -> tuple[float, float]:
        """Interval of the minutes, with two chances in three.

        The relative errors of the step and of the epochs, taken as independent, add up in
        quadrature on each side:

            minutes * exp(-/+ sqrt(relative_error**2 + log(end / epochs)**2))
        """
        low, high = self.epochs_interval or (self.epochs, self.epochs)
        down = math.hypot(self.relative_error, math.log(low / self.epochs))
        up = math.hypot(self.relative_error, math.log(high / self.epochs))
        return self.minutes * math.exp(-down), self.minutes * math.exp(up)


def predict(
    *,
    model: str | Workload | None = None,
    accelerator: str | Device,
    devices: int,
    global_batch_size: int,
    epochs: float | None = None,
    examples_needed: ExamplesNeeded | None = None,
    num_examples: float = IMAGENET_EXAMPLES,
    price_per_device_hour: float | None = None,
) -> Plan:
    """Predicts the time to train.

    minutes = E(B) * N / B * t(B/p, p) / 60, with the epochs E that a batch of B needs
    (`tf_lars.planner.epochs`) and the time t of a step on p devices (`tf_lars.planner.devices`).

    Args:
      model: Name from workloads.csv, or a `Workload`. Defaults to the model that the accelerator
        was measured on, which is "resnet50" for families with published results.
      accelerator: Name of a family with published results (`accelerators()`), a `Hardware`
        described by its data sheet, or the result of `calibrate`.
      devices: Number of devices, at least 1.
      global_batch_size: Examples per step on all devices, at least one per device.
      epochs: Passes over the data; defaults to those of `epochs_to_target`.
      examples_needed: Examples that a batch needs, on data for which no epochs are published;
        instead of `epochs`.
      num_examples: Training examples per epoch, N.
      price_per_device_hour: Price in any currency, for the cost.

    Raises:
      InputError: The model or accelerator is unknown, a number is out of range, `epochs` and
        `examples_needed` are both given, or neither is for a model without published epochs.
    """
    if isinstance(accelerator, str):
        accelerator = device(accelerator)
    measured = accelerator.measured_on
    costs = measured if model is None or model == measured.name else workload(model)
    for name, value in (("devices", devices), ("global_batch_size", global_batch_size)):
        whole = _is_whole(value) and value >= 1
        require(whole, f"`{name}`", "a whole number of at least 1", value)
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
        require(number is None or 0 < number < math.inf, f"`{name}`", "above 0", number)
    images = global_batch_size / devices
    notes = accelerator.notes(images, devices)
    extrapolated = False
    interval = None
    if examples_needed is not None:
        require(epochs is None, "`epochs`", "None where `examples_needed` is given", epochs)
        epochs = examples_needed(global_batch_size) / num_examples
        if examples_needed.knows_its_error:
            low, high = examples_needed.interval(global_batch_size)
            interval = (low / num_examples, high / num_examples)
    elif epochs is None:
        epochs, extrapolated = epochs_to_target(costs.name, global_batch_size)
    if extrapolated:
        notes.append("the batch is larger than any published one; its epochs are extrapolated")
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
        epochs_interval=interval,
    )


def _is_whole(value) -> bool:
    try:
        return value == int(value)
    except (TypeError, ValueError, OverflowError):
        return False

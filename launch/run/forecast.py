"""The planner's forecast of a run: in a dry run before it, and in its report beside its outcome."""

import dataclasses
from collections.abc import Iterable, Iterator

from launch.run import replica_step
from launch.run.settings import TrainingSettings
from tf_lars import planner
from tf_lars.data.batch_schedule import sizes_of
from tf_lars.planner import compiled_steps
from tf_lars.planner.device_memory import DeviceMemory
from tf_lars.planner.devices import Device
from tf_lars.planner.gpu_names import accelerator_of
from tf_lars.planner.plan_table import duration, planned_time
from tf_lars.planner.prediction import Plan
from tf_lars.planner.workloads import name_at
from tf_lars.tracking.report_page import Forecast
from tf_lars.tracking.run_record import FINISHED, RunRecord, number
from tf_lars.xla.targets import Target

CALIBRATE = "--calibrate=RUN,RUN plans it from your own finished runs"
"""How to get a forecast where the planner has none, in the words of a dry run."""

MOST = 1e15
"""Bound for what results.json may hold."""
_THIS_RUN = "A dry run or launch.plan with --calibrate=RUN forecasts from this run and others."


def family_of(devices: Iterable[str]) -> str | None:
    """Returns the planner's name of devices; None if unknown, or if they are of several families.

    Args:
      devices: Names of the devices, as the driver and TensorFlow report them.
    """
    families = {accelerator_of(device) for device in devices}
    return families.pop() if len(families) == 1 else None


def plan(
    settings: TrainingSettings, device: Device, devices: int, epochs: float, examples: int
) -> Plan | None:
    """Returns the planned time of a run; None if the planner does not know its model.

    Args:
      settings: Settings of the run.
      device: The planner's device.
      devices: Number of devices.
      epochs: Number of epochs.
      examples: Training examples per epoch.
    """
    model = name_at(settings.model, settings.image_size)
    if model != device.measured_on.name and model not in planner.workloads():
        return None
    return planner.predict(
        model=model,
        accelerator=device,
        devices=devices,
        global_batch_size=settings.global_batch_size,
        epochs=epochs,
        num_examples=examples,
    )


def notes(settings: TrainingSettings, device: Device, devices: int) -> Iterator[str]:
    """Yields remarks on a plan, for the user."""
    if settings.image_size_schedule:
        yield f"planned as if all images were of {settings.image_size} px"
    if settings.batch_size_schedule:
        yield f"planned as if all batches were of {settings.global_batch_size:,} images"
    # The plan ignores micro-batches, but memory depends on the images processed at a time.
    images = min(sizes_of(settings.batches)) / devices
    if isinstance(settings.micro_batch_size, int):
        images = settings.micro_batch_size
    elif settings.micro_batch_size:
        images = min(images, device.most_images)
    yield from device.notes(images, devices)


def memory(settings: TrainingSettings, target: Target, file: str | None, images: int) -> str:
    """Returns what is known of the memory of a device for the largest step of a run, in words.

    Args:
      settings: Settings of the run.
      target: The device.
      file: File of `launch.compile_for`, beside the steps that come with the package; or None.
      images: Images of a device in that step.

    Raises:
      InputError: The step does not fit, or the file is unusable.
    """
    steps = compiled_steps.packaged()
    if file is not None:
        steps += compiled_steps.read(file)
    by_trial = settings.micro_batch_size == "auto"
    if by_trial:
        settings = dataclasses.replace(settings, micro_batch_size=None)
    largest = replica_step.for_replicas(settings, 1, images)
    known = DeviceMemory.of(
        steps,
        model=name_at(settings.model, largest.image_size),
        accelerator=target.accelerator,
        precision=settings.mixed_precision,
        target=target.kind,
    )
    if known is None:
        return (
            f"unknown for {settings.model} at {largest.image_size} px in "
            f"{settings.mixed_precision} on {target.kind}: launch.compile_for compiles this step, "
            "and --memory=FILE takes its results"
        )
    if by_trial:
        return (
            f"micro-batches of up to {known.largest(in_parts=True):,} images fit on "
            f"{target.kind}, by XLA's count; their size is found by trial"
        )
    micro = largest.micro_batch_size
    return known.check(images, micro if isinstance(micro, int) else None)


def beside_outcome(settings: TrainingSettings, record: RunRecord) -> Forecast:
    """Returns the forecast of a finished run beside what happened, or why there is none.

    Args:
      settings: Settings of the run.
      record: Its record.
    """
    found = record.results
    if record.state != FINISHED:
        return Forecast(
            ["No forecast: it is compared with results, which a run writes when it finishes."]
        )
    if settings.batch_size_schedule:
        return Forecast(["No forecast: the planner plans for one batch, and that of the run grew."])
    names = ("steps", "epochs", "replicas", "global_batch_size", "seconds", "images_per_second")
    numbers = [number(found.get(name)) for name in names]
    if not all(0 < value < MOST for value in numbers):
        return Forecast(["No forecast: results.json is of an earlier version."])
    steps, epochs, replicas, batch, seconds, speed = numbers
    name = str(found.get("device", "unknown"))
    family = family_of([name])
    if family is None:
        return Forecast(
            [f"No forecast: the planner has no published results for {name}. {_THIS_RUN}"]
        )
    device = planner.device(family)
    devices = int(replicas)
    planned = plan(settings, device, devices, epochs, round(steps * batch / epochs))
    if planned is None:
        model = name_at(settings.model, settings.image_size)
        return Forecast([f"No forecast: the planner does not know {model}. {_THIS_RUN}"])
    per_step = 1e3 * batch / speed
    rows = [
        ("time of training", duration(planned.minutes), duration(seconds / 60))
        + (_ratio(seconds / 60, planned.minutes),),
        ("images/s", f"{planned.images_per_second:,.0f}", f"{speed:,.0f}")
        + (_ratio(speed, planned.images_per_second),),
        ("ms per step", f"{1e3 * planned.step_seconds:,.4g}", f"{per_step:,.4g}")
        + (_ratio(per_step, 1e3 * planned.step_seconds),),
    ]
    remarks = [f"Note: {note}." for note in notes(settings, device, devices)]
    return Forecast(
        [
            f"{devices:,} x {family}, from published results: {planned_time(planned)}.",
            *remarks,
            "Forecasts from published results include evaluation, which the measured images/s and "
            f"ms per step leave out. {_THIS_RUN}",
        ],
        rows,
    )


def _ratio(measured: float, forecast: float) -> str:
    return f"{measured / forecast:.2f}"

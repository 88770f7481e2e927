"""Speed of the input pipeline on this machine, and the number of devices it could feed."""

import dataclasses
import time

import tensorflow as tf

from tf_lars.machine import available_cores


@dataclasses.dataclass(frozen=True)
class InputRate:
    """Measurements of one pipeline.

    Attributes:
      images: Number of images produced.
      seconds: Wall time.
      cpu_seconds: CPU time of all threads of the process.
      cores: Number of CPU cores that this process may use.
    """

    images: int
    seconds: float
    cpu_seconds: float
    cores: int

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time."""
        return self.images / self.seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """CPU time per image in milliseconds."""
        return 1e3 * self.cpu_seconds / self.images

    @property
    def feedable(self) -> float:
        """Images per second that all cores together could produce if they did nothing else."""
        return self.cores * self.images / self.cpu_seconds


def measure(dataset: tf.data.Dataset, seconds: float) -> InputRate:
    """Measures a dataset for some time, after two batches of warm-up.

    Args:
      dataset: Batches of dictionaries with an `image` of shape `[batch, ...]`; repeated if it
        ends.
      seconds: Seconds to measure; at least one batch is taken.
    """
    batches = iter(dataset.repeat())
    for _ in range(2):
        next(batches)
    start, cpu_start, images = time.perf_counter(), time.process_time(), 0
    while images == 0 or time.perf_counter() - start < seconds:
        images += next(batches)["image"].shape[0]
    return InputRate(
        images,
        time.perf_counter() - start,
        time.process_time() - cpu_start,
        available_cores(),
    )


def table(rates: dict[str, InputRate]) -> str:
    """Returns a table of the rates as lines of text."""
    some = next(iter(rates.values()))
    row = "{:<12}{:>12}{:>20}{:>26}"
    lines = [row.format("", "images/s", "CPU ms per image", f"{some.cores} cores could feed")]
    for name, rate in rates.items():
        lines.append(
            row.format(
                name,
                f"{rate.images_per_second:,.0f}",
                f"{rate.cpu_ms_per_image:.3f}",
                f"{rate.feedable:,.0f} images/s",
            )
        )
    return "\n".join(lines)


def verdict(rate: InputRate, devices: int, device_images_per_second: float | None) -> str:
    """Returns the conclusion for a host: whether the input or the device is the limit.

    Args:
      rate: Rate of training.
      devices: Number of GPUs or TPU cores of the host.
      device_images_per_second: Images per second that one device trains on, if known.
    """
    share = rate.feedable / devices
    whose = "the device" if devices == 1 else f"each of {devices} devices"
    told = f"on such a host, {whose} gets up to {share:,.0f} images/s"
    if device_images_per_second is None:
        return f"{told}; one that trains faster waits for the input"
    if share >= device_images_per_second:
        return (
            f"{told}: the device, at {device_images_per_second:,.0f}, is the limit, and the input "
            f"takes {device_images_per_second / share:.0%} of the cores"
        )
    return (
        f"{told}: the input is the limit, and feeds {share / device_images_per_second:.0%} of "
        f"the {device_images_per_second:,.0f} that the device could take; shards of short side 256 "
        "cost half as much, and more cores per device help"
    )

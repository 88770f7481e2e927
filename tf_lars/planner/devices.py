"""The time of a step on a device: the hardware part of the time to train.

A device family with published results has three fitted constants (fitted.csv):

    t = (b + h) / r + k lg(p) / r

with b images per device, the asymptotic rate r in images/s, the overhead h in images (the cost of a
step at any b: kernel launches, the optimizer, the constant part of communication) and the growth k
in images per doubling of the devices p (waiting, and communication that is not hidden). The
constants are those of ResNet-50 at 224 pixels in the precision of its submissions. For another
model, b/r scales with its FLOPs per image and k with its gradients.

Hardware without results is computed from its data sheet, from the user or from data_sheets.csv:
arithmetic at `FLOPS_SHARE` of the peak or `BYTES_PER_FLOP` of memory traffic, whichever takes
longer, and an all-reduce by the formulas of `communication`.
"""

import dataclasses
import difflib
import functools
import math
from typing import Any, Protocol

from tf_lars.errors import InputError, require
from tf_lars.packaged_csv import rows
from tf_lars.planner import communication
from tf_lars.planner.communication import Network
from tf_lars.planner.workloads import Workload, workload

FLOPS_SHARE = 0.34
"""Share of the peak arithmetic that training reaches where arithmetic limits it."""

BYTES_PER_FLOP = 0.019
"""Bytes moved to and from memory per FLOP of training with 16-bit activations.

`FLOPS_SHARE` and this number were fitted to the rates of 19 families (benchmarks/fit_planner.py,
data_sheets.csv).
"""

HARDWARE_ERROR = 0.23
"""Relative error of such a rate, from leaving each of the 19 families out of the fit in turn."""

TYPICAL_OVERHEAD = 20.0
"""Overhead h, in images, of hardware known only from its data sheet."""

BACKWARD_SHARE = 2 / 3
"""Share of the backward pass, behind which an all-reduce can hide, in the arithmetic."""


@dataclasses.dataclass(frozen=True)
class StepTime:
    """The parts of a step, in seconds."""

    compute: float
    overhead: float
    communication: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.overhead + self.communication


class Device(Protocol):
    """The interface of devices for `predict`."""

    @property
    def name(self) -> str:
        """Name of the device."""

    @property
    def measured_on(self) -> Workload:
        """Model whose times the device was fitted to."""

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns the time of a step, given the images per device and the number of devices."""

    @property
    def most_images(self) -> float:
        """Largest number of images per device that is known to fit."""

    def error(self, images: float, devices: int) -> float:
        """Returns the relative standard error of the time of a step."""

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns remarks on the time of a step, for the user."""


@dataclasses.dataclass(frozen=True)
class FittedDevice:
    """A family with published results; a row of fitted.csv.

    Attributes:
      name: Name of the family.
      images_per_second: Asymptotic rate, r.
      overhead_images: Overhead of a step in images, h.
      growth_images: Growth in images per doubling of the devices, k.
      images_per_second_error, overhead_images_error, growth_images_error: Standard deviations of
        the three constants.
      relative_error: Relative error of the predicted time of a result left out of the fit.
      results: Number of results in the fit.
      most_devices: Largest number of devices in the fit.
      least_images, most_images: Smallest and largest number of images per device in the fit.
    """

    name: str
    images_per_second: float
    overhead_images: float
    growth_images: float
    images_per_second_error: float
    overhead_images_error: float
    growth_images_error: float
    relative_error: float
    results: int
    most_devices: int
    least_images: float
    most_images: float

    @property
    def measured_on(self) -> Workload:
        """ResNet-50."""
        return workload("resnet50")

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns (b + h)/r + k lg(p)/r, scaled to the model."""
        reference, r = self.measured_on, self.images_per_second
        flops = model.training_flops / reference.training_flops
        gradients = model.parameters / reference.parameters
        return StepTime(
            compute=images / r * flops,
            overhead=self.overhead_images / r,
            communication=self.growth_images * math.log2(devices) / r * gradients,
        )

    def error(self, images: float, devices: int) -> float:
        """Returns the error on results left out of the fit.

        It grows beyond the largest number of devices in the fit, with the extrapolated share of
        the time.
        """
        beyond = max(0.0, math.log2(devices / self.most_devices))
        unseen = self.growth_images * beyond / (images + self.overhead_images)
        return math.hypot(self.relative_error, unseen, 0.03 * beyond)

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns the limits of the fit that concern the step."""
        notes = []
        if devices > 1:
            notes.append(
                "communication covers only what grows with the number of devices; constant and "
                "hidden communication is part of the overhead and the rate"
            )
        if devices > self.most_devices:
            notes.append(
                f"beyond {self.most_devices:,} {self.name}, the largest number with a published "
                "result"
            )
        if images > 1.25 * self.most_images:
            notes.append(
                f"{images:,.0f} images per device may not fit into the memory; the largest "
                f"published number on {self.name} is {self.most_images:,.0f}"
            )
        if self.results < 4:
            plural = "s" if self.results > 1 else ""
            notes.append(f"{self.name} has only {self.results} published result{plural}")
        return notes


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A device without measurements, described by its data sheet.

    Attributes:
      flops: Peak arithmetic in the precision of training, in FLOP/s.
      memory_bandwidth: Memory bandwidth in bytes/s.
      network: Network between nodes, or between all devices.
      algorithm: Name of the all-reduce algorithm, one of `communication.ALGORITHMS`.
      node_network: Network within a node, for "two_level".
      devices_per_node: Devices per node, for "two_level".
      dtype: Data type of the arithmetic; float32 moves twice the bytes.
      gradient_dtype: Data type in which gradients are sent.
      overlap: Share of the backward pass that overlaps with the all-reduce; 0 for `Trainer`, which
        reduces after the backward pass.
      name: Name in messages; "hardware" for a device that the user describes.

    Raises:
      InputError: A value is out of range.
    """

    flops: float
    memory_bandwidth: float
    network: Network
    algorithm: str = "ring"
    node_network: Network | None = None
    devices_per_node: int = 1
    dtype: str = "bfloat16"
    gradient_dtype: str = "float32"
    overlap: float = 0.0
    name: str = "hardware"

    def __post_init__(self):
        for name in ("flops", "memory_bandwidth", "devices_per_node"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"`{name}`", "above 0", value)
        require(0 <= self.overlap <= 1, "`overlap`", "from 0 to 1", self.overlap)
        for name in ("dtype", "gradient_dtype"):
            value, known = getattr(self, name), communication.BYTES
            require(value in known, f"`{name}`", f"one of {', '.join(known)}", value)
        communication.all_reduce(self.algorithm, 1, 0.0, self.network)  # checks the name

    @property
    def measured_on(self) -> Workload:
        """ResNet-50, to whose rates `FLOPS_SHARE` and `BYTES_PER_FLOP` were fitted."""
        return workload("resnet50")

    @property
    def most_images(self) -> float:
        """256 images, unchecked."""
        return 256

    def rate(self, model: Workload) -> float:
        """Returns images/s: the smaller of the rates that arithmetic and memory allow."""
        traffic = BYTES_PER_FLOP * communication.BYTES[self.dtype] / communication.BYTES["bfloat16"]
        return min(FLOPS_SHARE * self.flops, self.memory_bandwidth / traffic) / model.training_flops

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns (b + 20) / rate, and the part of the all-reduce that does not overlap."""
        compute = images / self.rate(model)
        overhead = TYPICAL_OVERHEAD / self.rate(self.measured_on)
        reduction = communication.all_reduce(
            self.algorithm,
            devices,
            model.parameters * communication.BYTES[self.gradient_dtype],
            self.network,
            self.node_network,
            self.devices_per_node,
        )
        hidden = self.overlap * BACKWARD_SHARE * compute
        return StepTime(compute, overhead, max(0.0, reduction - hidden))

    def error(self, images: float, devices: int) -> float:
        """Returns the relative error of rates computed from data sheets."""
        del images, devices
        return HARDWARE_ERROR

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns that the time was not measured."""
        del images, devices
        if self.name == "hardware":
            return ["computed from the data sheet, not measured"]
        return [
            f"{self.name} is not measured: planned by its data sheet, with an error of "
            f"{HARDWARE_ERROR:.0%} in its rate"
        ]


ALIASES = {
    "CPU": "CPU-SPR",
    "NVIDIA A40 nf5468m6_mxnet": "A40",
    "NVIDIA A40 nf5468m6j_mxnet": "A40",
}
"""Other names of families; "CPU" stands for the newer of the two CPU families."""


@functools.cache
def fitted_devices() -> dict[str, FittedDevice]:
    """Returns the families with published results, by name."""
    families = {}
    for row in rows(__package__, "fitted.csv"):
        fields: dict[str, Any] = {key: float(row[key]) for key in row if key != "name"}
        fields |= {key: int(row[key]) for key in ("results", "most_devices")}
        families[row["name"]] = FittedDevice(name=row["name"], **fields)
    return families


@functools.cache
def _sheets() -> dict[str, dict[str, str]]:
    """Returns the rows of data_sheets.csv by accelerator."""
    return {row["accelerator"]: row for row in rows(__package__, "data_sheets.csv")}


def peak_flops(accelerator: str) -> float | None:
    """Returns the peak of a family in 16-bit arithmetic by its data sheet, in FLOP/s; or None."""
    sheet = _sheets().get(accelerator)
    if sheet is None or sheet["precision"] == "float32":
        return None
    return 1e12 * float(sheet["peak_tflops"])


def memory_bandwidth(accelerator: str) -> float:
    """Returns the memory bandwidth of a family by its data sheet, in bytes/s."""
    return 1e9 * float(_sheets()[accelerator]["memory_gb_per_second"])


def accelerators() -> list[str]:
    """Returns the names of all families with published results."""
    return sorted(fitted_devices())


def unmeasured_accelerators() -> list[str]:
    """Returns the names of the accelerators that are known by their data sheets only."""
    return sorted(name for name in _sheets() if name not in fitted_devices())


def device(name: str) -> FittedDevice | Hardware:
    """Returns an accelerator by name, ignoring case and spaces.

    Returns:
      A family with published results, or else the `Hardware` of a row of data_sheets.csv.

    Raises:
      InputError: The accelerator is unknown; the message lists the known ones.
    """
    names = {_key(known): known for known in [*fitted_devices(), *ALIASES, *_sheets()]}
    known = names.get(_key(name))
    if known is None:
        close = difflib.get_close_matches(_key(name), names, n=1)
        hint = f" Did you mean {names[close[0]]}?" if close else ""
        raise InputError(
            f"The accelerator must be one of {', '.join(accelerators())}. Received: {name!r}.{hint}"
            f" By their data sheets, not measured, {', '.join(unmeasured_accelerators())} are known"
            " too. Describe any other device in this way (planner.Hardware; --flops, "
            "--memory_bandwidth and --network)."
        )
    known = ALIASES.get(known, known)
    return fitted_devices()[known] if known in fitted_devices() else _hardware(known)


def _key(name: str) -> str:
    return name.lower().replace(" ", "")


def _hardware(name: str) -> Hardware:
    """Returns the hardware of a row of data_sheets.csv, with its usual network."""
    sheet = _sheets()[name]
    node_network = sheet["node_network"]
    return Hardware(
        flops=1e12 * float(sheet["peak_tflops"]),
        memory_bandwidth=1e9 * float(sheet["memory_gb_per_second"]),
        network=communication.network(sheet["network"]),
        algorithm=sheet["algorithm"],
        node_network=communication.network(node_network) if node_network else None,
        devices_per_node=int(sheet["devices_per_node"] or 1),
        name=name,
    )

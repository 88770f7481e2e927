"""How long one step takes on a device: the hardware side of time to train.

A device family that has published results has three fitted constants (fitted.csv):

    t = (b + h) / r + k lg(p) / r

with b images per device, r its asymptotic rate in images/s, h its overhead in images (what a step
costs however small b is: launches, the optimizer, the constant part of communication) and k the
images per doubling of the devices p, which is communication that is not hidden, and waiting. The
constants are those of ResNet-50 at 224 pixels in the precision that its submissions chose. Another
model takes b/r in proportion to its FLOP per image, and k in proportion to its gradients.

Hardware without any result is computed from its data sheet: arithmetic at `FLOPS_SHARE` of its
peak or memory traffic at `MEMORY_SHARE` of its bandwidth, whichever takes longer, and an all-reduce
by the formulas of `communication`.
"""

import csv
import dataclasses
import difflib
import functools
import importlib.resources
import math
from typing import Any, Protocol

from tf_lars.errors import InputError
from tf_lars.planner import communication
from tf_lars.planner.communication import Network
from tf_lars.planner.workloads import Workload, workload

FLOPS_SHARE = 0.34
"""Share of the peak arithmetic that training reaches where arithmetic is what limits it."""

BYTES_PER_FLOP = 0.019
"""Bytes moved to and from memory per FLOP of training with activations of 16 bits.

Both were fitted to the rates of 19 families (benchmarks/fit_planner.py, benchmarks/datasheets.csv).
"""

HARDWARE_ERROR = 0.23
"""Relative error of a rate so computed: of the 19, each left out of the fit in turn."""

TYPICAL_OVERHEAD = 20.0
"""Images: the overhead h of a family of which nothing is known but its data sheet."""

BACKWARD_SHARE = 2 / 3
"""Share of the arithmetic that is the backward pass, behind which an all-reduce can hide."""


@dataclasses.dataclass(frozen=True)
class StepTime:
    """The parts of one step, in seconds."""

    compute: float
    overhead: float
    communication: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.overhead + self.communication


class Device(Protocol):
    """What `predict` needs to know of a device."""

    @property
    def name(self) -> str:
        """Of the device."""

    @property
    def measured_on(self) -> Workload:
        """The model whose times it knows best."""

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns the step's time with so many images on each of so many devices."""

    @property
    def most_images(self) -> float:
        """Images that it has been seen to hold."""

    def error(self, images: float, devices: int) -> float:
        """Returns the relative standard error of that time."""

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns what a person should know about that time."""


@dataclasses.dataclass(frozen=True)
class FittedDevice:
    """A family with published results; a row of fitted.csv.

    Attributes:
      name: of the family.
      images_per_second: r.
      overhead_images: h.
      growth_images: k.
      images_per_second_error, overhead_images_error, growth_images_error: standard deviations of
        the three.
      relative_error: of the predicted time of a result that was not fitted.
      results: how many results were fitted.
      most_devices: of them.
      least_images, most_images: per device, of them.
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
        """Returns the error on results that were not fitted, more for more devices than those.

        Beyond the fitted devices the share of the time that was never seen adds to it.
        """
        beyond = max(0.0, math.log2(devices / self.most_devices))
        unseen = self.growth_images * beyond / (images + self.overhead_images)
        return math.hypot(self.relative_error, unseen, 0.03 * beyond)

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns what the results cannot tell, and what lies outside them."""
        notes = []
        if devices > 1:
            notes.append(
                "communication counts what grows with the devices; what does not, and what hides "
                "behind the backward pass, is in the overhead and the rate"
            )
        if devices > self.most_devices:
            notes.append(
                f"beyond {self.most_devices:,} {self.name}, the most with a published result"
            )
        if images > 1.25 * self.most_images:
            notes.append(
                f"{images:,.0f} images per device may not fit into the memory: the most published "
                f"on {self.name} are {self.most_images:,.0f}"
            )
        if self.results < 4:
            notes.append(f"{self.name} has {self.results} published results only")
        return notes


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A device that was never measured, from its data sheet.

    Attributes:
      flops: peak arithmetic in the precision of training, FLOP/s.
      memory_bandwidth: bytes/s.
      network: between nodes, or between all devices.
      algorithm: one of `communication.ALGORITHMS`.
      node_network: within a node, for "two_level".
      devices_per_node: for "two_level".
      dtype: of the arithmetic; float32 moves twice the bytes.
      gradient_dtype: in which gradients are sent.
      overlap: share of the backward pass behind which the all-reduce hides; 0, as in `Trainer`,
        which reduces after it.
      name: for messages.

    Raises:
      InputError: a number out of its range.
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
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"`{name}` must be above 0. Received: {getattr(self, name)}.")
        if not 0 <= self.overlap <= 1:
            raise InputError(f"`overlap` must be from 0 to 1. Received: {self.overlap}.")
        for name in ("dtype", "gradient_dtype"):
            if getattr(self, name) not in communication.BYTES:
                raise InputError(
                    f"`{name}` must be one of {', '.join(communication.BYTES)}. Received: "
                    f"{getattr(self, name)!r}."
                )
        communication.all_reduce(self.algorithm, 1, 0.0, self.network)  # knows the algorithm

    @property
    def measured_on(self) -> Workload:
        """ResNet-50, whose rates the two shares were fitted to."""
        return workload("resnet50")

    @property
    def most_images(self) -> float:
        """256 images, which nobody has checked."""
        return 256

    def rate(self, model: Workload) -> float:
        """Returns images/s: the less of what arithmetic and memory allow."""
        traffic = BYTES_PER_FLOP * communication.BYTES[self.dtype] / communication.BYTES["bfloat16"]
        return min(FLOPS_SHARE * self.flops, self.memory_bandwidth / traffic) / model.training_flops

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns (b + 20) / rate and the all-reduce, less what hides behind the backward pass."""
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
        """Returns the error of rates computed from data sheets."""
        del images, devices
        return HARDWARE_ERROR

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns that nothing of this was measured."""
        del images, devices
        return ["computed from the data sheet; nothing of it was measured"]


ALIASES = {
    "CPU": "CPU-SPR",
    "NVIDIA A40 nf5468m6_mxnet": "A40",
    "NVIDIA A40 nf5468m6j_mxnet": "A40",
}
"""Other names of families; "CPU" is the newest of the two."""


@functools.cache
def fitted_devices() -> dict[str, FittedDevice]:
    """Returns the families with published results, by name."""
    text = importlib.resources.files(__package__).joinpath("fitted.csv").read_text()
    families = {}
    for row in csv.DictReader(text.splitlines()):
        fields: dict[str, Any] = {key: float(row[key]) for key in row if key != "name"}
        fields |= {key: int(row[key]) for key in ("results", "most_devices")}
        families[row["name"]] = FittedDevice(name=row["name"], **fields)
    return families


def accelerators() -> list[str]:
    """Returns the names of all families with published results."""
    return sorted(fitted_devices())


def device(name: str) -> FittedDevice:
    """Returns a family by name, in any case.

    Raises:
      InputError: no such family, with those that are known.
    """
    names = {known.lower(): known for known in [*fitted_devices(), *ALIASES]}
    known = names.get(name.lower())
    if known is None:
        close = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f" Did you mean {names[close[0]]}?" if close else ""
        raise InputError(
            f"The accelerator must be one of {', '.join(accelerators())}. Received: {name!r}.{hint}"
            " Describe any other by its data sheet (planner.Hardware; --flops, "
            "--memory_bandwidth and --network)."
        )
    return fitted_devices()[ALIASES.get(known, known)]

"""Fits the planner to a user's own short runs, so that small runs predict a large one.

The time of a step on p devices with b images each is

    t = b / (r g) + c0 + all_reduce(p, n; a, B)

with the device's rate r, the overhead c0 of a step, and an all-reduce of n bytes of gradients by
the formulas of `communication`. Two runs do not determine r, c0, a and B. All except r therefore
have priors, and whatever the runs leave open adds to the predicted `error`.

Where workers are processes that share the cores of one machine, a worker's rate depends on its
cores c: g = c up to one core, and c**0.42 beyond (two processes with a core each are 1.5 times as
fast as one on both; this exponent is fitted too).
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence

import numpy as np

from tf_lars.errors import InputError, require
from tf_lars.planner import communication
from tf_lars.planner.communication import Network
from tf_lars.planner.devices import StepTime
from tf_lars.planner.least_squares import covariance, solve
from tf_lars.planner.workloads import Workload, name_at
from tf_lars.setting import above, batch_size, image_size, number, whole_number, within

MEASUREMENT_DEVIATION = 0.05
"""Relative standard deviation of step times between runs, and from the model."""

OVERHEAD = (math.log(5e-3), 1.0)
"""Prior mean and deviation of log c0, in seconds; fitted.csv's families have 3 to 30 ms."""

LOOPBACK = ((math.log(2e-4), 1.5), (math.log(2e-9), 1.5))
"""Prior means and deviations of log a and log B between processes of one machine."""

UNKNOWN_NETWORK = ((math.log(2e-6), 1.0), (math.log(1e-10), 1.0))
"""The same between machines: 80 Gb/s, within a factor of 3 either way."""

KNOWN_NETWORK_DEVIATION = 0.1
"""Prior deviation of log a and log B for a network that the user has named."""

RATE_DEVIATION = 3.0
"""Prior deviation of log r around the fastest measured rate: almost uninformative."""

CORE_EXPONENT = (math.log(2 / 1.5) / math.log(2), 0.15)
"""Prior mean and deviation of g's exponent beyond one core: 1.33 times the rate on two cores."""


_COUNTS = {
    "replicas": within(1, 1_000_000),
    "num_hosts": within(1, 1_000_000),
    "global_batch_size": batch_size(),
    "image_size": image_size(),
    "parameters": within(0, 10**13),
}
_NUMBERS = {"images_per_second": within(1e-6, 1e12), "forward_flops": within(0, 1e18)}
"""Ranges of the values of results.json."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measured time of a step.

    Attributes:
      accelerator: Name of the device.
      devices: Number of devices that trained together.
      global_batch_size: Examples per step, on all devices.
      step_seconds: Seconds per step.
      workload: The model.
      cores: Processor cores per device, where devices are processes on CPUs.
      shared_host: Whether all devices are processes of one machine.
    """

    accelerator: str
    devices: int
    global_batch_size: int
    step_seconds: float
    workload: Workload
    cores: float | None = None
    shared_host: bool = False

    @classmethod
    def load(cls, path: str) -> "Measurement":
        """Reads the results.json of a run.

        Args:
          path: Path of the file, or of the run's folder.

        Raises:
          InputError: The file is missing, or lacks a value that a calibration needs.
        """
        if os.path.isdir(path):
            path = os.path.join(path, "results.json")
        try:
            with open(path, encoding="utf-8") as file:
                run = json.load(file)
            for name in ("model", "device"):
                require(isinstance(run[name], str) and run[name], name, "a name", run[name])
            schedule = run.get("batch_size_schedule")
            counts = {name: whole_number(name, run[name], _COUNTS[name]) for name in _COUNTS}
            numbers = {name: number(name, run[name], _NUMBERS[name]) for name in _NUMBERS}
            cores = run["cores_per_replica"]
            if cores is not None:
                cores = number("cores_per_replica", cores, above(0, 1e6))
            measured = cls(
                accelerator=run["device"],
                devices=counts["replicas"],
                global_batch_size=counts["global_batch_size"],
                step_seconds=counts["global_batch_size"] / numbers["images_per_second"],
                workload=Workload(
                    name_at(run["model"], counts["image_size"]),
                    numbers["forward_flops"],
                    counts["parameters"],
                ),
                cores=cores,
                shared_host=cores is not None and counts["num_hosts"] == 1,
            )
        except OSError as error:
            raise InputError(
                f"A calibration reads the results.json of finished runs. Received: {path!r} "
                f"({error.strerror}). Give the folders of finished runs."
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = str(error).rstrip(".") if isinstance(error, InputError) else repr(error)
            raise InputError(
                "A calibration needs a results.json written by a launcher of this version. "
                f"Received: {path!r} ({reason}). Repeat the run."
            ) from error
        if schedule:
            raise InputError(
                f"A calibration needs runs of one batch size. Received: {path!r}, whose batches "
                f"by epoch are {schedule}. Leave it out."
            )
        return measured


@dataclasses.dataclass(frozen=True)
class CalibratedDevice:
    """A device fitted to short runs; created by `calibrate`.

    Attributes:
      name: Name of the device.
      measured_on: The model of the runs.
      algorithm: Name of the all-reduce algorithm.
      parameters: Fitted log r, log c0, log a, log B and core exponent.
      covariance: Covariance of the parameters.
      cores: Cores per device, or None.
      host_cores: Cores of the one machine that all devices share, or None.
      most_images: Largest number of images per device in the runs.
      runs: Number of runs in the fit.
    """

    name: str
    measured_on: Workload
    algorithm: str
    parameters: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    cores: float | None
    host_cores: float | None
    most_images: float
    runs: int

    def step(self, model: Workload, images: float, devices: int) -> StepTime:
        """Returns b / (r g), c0 and the all-reduce.

        Raises:
          InputError: The model is not that of the runs, and the FLOPs of one of them are unknown.
        """
        return self._step(np.array(self.parameters), model, images, devices)

    def _step(self, x: np.ndarray, model: Workload, images: float, devices: int) -> StepTime:
        flops = 1.0
        if model.name != self.measured_on.name:
            if not (model.forward_flops and self.measured_on.forward_flops):
                raise InputError(
                    f"The runs trained {self.measured_on.name}, and scaling them to another model "
                    f"needs the FLOPs of both. Received: {model.name}. Calibrate with runs of that "
                    "model."
                )
            flops = model.forward_flops / self.measured_on.forward_flops
        cores = self.host_cores / devices if self.host_cores else self.cores
        return _step(x, self.algorithm, images * flops, devices, model.parameters, cores)

    def error(self, images: float, devices: int) -> float:
        """Returns the relative standard error, from the uncertainty of runs and priors."""
        best = np.array(self.parameters)

        def log_total(x):
            return math.log(self._step(x, self.measured_on, images, devices).total)

        slope = np.array(
            [(log_total(best + 1e-5 * unit) - log_total(best)) / 1e-5 for unit in np.eye(len(best))]
        )
        return float(
            math.hypot(MEASUREMENT_DEVIATION, math.sqrt(slope @ np.array(self.covariance) @ slope))
        )

    def notes(self, images: float, devices: int) -> list[str]:
        """Returns the number of runs behind the fit, and whether workers share cores."""
        del images
        notes = [f"calibrated with {self.runs} run{'s' if self.runs > 1 else ''}"]
        if self.host_cores and devices > self.host_cores:
            notes.append(f"{devices} workers share {self.host_cores:g} cores")
        return notes


def calibrate(
    runs: Sequence["str | Measurement"],
    *,
    accelerator: str | None = None,
    network: str | Network | None = None,
    algorithm: str = "ring",
) -> CalibratedDevice:
    """Fits the step-time model to measured runs.

    Args:
      runs: Folders or results.json files of finished runs, or measurements. All of one model; the
        more they differ in devices and images per device, the better.
      accelerator: Name of the device to return, where the runs used several; each device has its
        own rate, and all share the overhead and the network.
      network: Network between the devices: a name from networks.csv or a `Network`. Unknown by
        default.
      algorithm: Name of the all-reduce algorithm, one of `communication.ALGORITHMS`.

    Returns:
      The device, for the argument `accelerator` of `predict`.

    Raises:
      InputError: There are no runs, the runs are of several models, or the device, network or
        algorithm is unknown.
    """
    measurements = [r if isinstance(r, Measurement) else Measurement.load(r) for r in runs]
    names = sorted({m.accelerator for m in measurements})
    models = sorted({m.workload.name for m in measurements})
    if not measurements or len(models) > 1:
        raise InputError(
            "A calibration needs at least one run, and all runs of the same model. Received: "
            f"{' and '.join(models) or 'no runs'}."
        )
    if accelerator is None and len(names) == 1:
        accelerator = names[0]
    if accelerator not in names:
        raise InputError(
            f"The runs used {' and '.join(names)}. Received: accelerator={accelerator!r}. Give "
            "one of them."
        )
    link = communication.network(network) if isinstance(network, str) else network
    communication.all_reduce(algorithm, 1, 0.0, link or Network("", 0.0, 0.0))  # checks the name
    priors = _priors(link, loopback=all(m.shared_host for m in measurements))
    shared = len(priors)

    fastest = [
        math.log(
            max(
                m.global_batch_size / m.devices / m.step_seconds
                for m in measurements
                if m.accelerator == name
            )
        )
        for name in names
    ]
    # Without the network's share of the step, a device may be faster than any run.
    priors += [(rate, RATE_DEVIATION) for rate in fastest]

    def residuals(x):
        rates = dict(zip(names, x[shared:], strict=True))
        measured = [
            np.log(
                _step(
                    np.concatenate([[rates[m.accelerator]], x[:shared]]),
                    algorithm,
                    m.global_batch_size / m.devices,
                    m.devices,
                    m.workload.parameters,
                    m.cores,
                ).total
                / m.step_seconds
            )
            / MEASUREMENT_DEVIATION
            for m in measurements
        ]
        return np.array(measured + [(x[i] - mean) / sd for i, (mean, sd) in enumerate(priors)])

    best = solve(residuals, np.array([mean for mean, _ in priors]))
    spread = covariance(residuals, best)
    own = [shared + names.index(accelerator), *range(shared)]
    of_device = [m for m in measurements if m.accelerator == accelerator]
    return CalibratedDevice(
        name=accelerator,
        measured_on=of_device[0].workload,
        algorithm=algorithm,
        parameters=tuple(best[own].tolist()),
        covariance=tuple(map(tuple, spread[np.ix_(own, own)].tolist())),
        cores=of_device[0].cores,
        host_cores=max((m.cores or 0) * m.devices for m in of_device)
        if all(m.shared_host for m in of_device)
        else None,
        most_images=max(m.global_batch_size / m.devices for m in of_device),
        runs=len(measurements),
    )


def _priors(link: Network | None, loopback: bool) -> list[tuple[float, float]]:
    """Returns prior means and deviations of log c0, log a, log B and the core exponent."""
    if link is None:
        return [OVERHEAD, *(LOOPBACK if loopback else UNKNOWN_NETWORK), CORE_EXPONENT]
    known = KNOWN_NETWORK_DEVIATION
    return [
        OVERHEAD,
        (math.log(max(link.latency, 1e-12)), known),
        (math.log(link.seconds_per_byte), known),
        CORE_EXPONENT,
    ]


def _step(
    x: np.ndarray,
    algorithm: str,
    images: float,
    devices: int,
    parameters: int,
    cores: float | None,
) -> StepTime:
    rate, overhead, latency, seconds_per_byte = (float(value) for value in np.exp(x[:4]))
    if cores is not None:
        rate *= cores if cores <= 1 else cores ** x[4]
    link = Network("calibrated", latency, seconds_per_byte)
    gradients = parameters * communication.BYTES["float32"]
    reduction = communication.all_reduce(algorithm, devices, gradients, link)
    return StepTime(images / rate, overhead, reduction)

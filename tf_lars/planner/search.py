"""Which devices and which batch: neighbours of a plan, deadlines, and where more stops paying."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

from tf_lars.errors import InputError
from tf_lars.planner.devices import Device
from tf_lars.planner.prediction import Plan

MOST_DEVICES = 100_000
"""No search looks beyond; nobody has trained ResNet-50 on so many."""

LEAST_SPEEDUP = 1.5
"""Twice the devices pay where they are at least this much faster: 75 % of the ideal."""

Predictor = Callable[..., Plan]
"""`predict` with all given but `devices` and `global_batch_size` (functools.partial)."""

Batches = Callable[[int], Sequence[int]]
"""The global batches that may be tried on so many devices."""


def batches(device: Device, largest: int) -> Batches:
    """Returns the batches that a device's memory allows, powers of two per device.

    Args:
      device: says how many images it has been seen to hold.
      largest: the largest global batch that may be tried.
    """
    powers = itertools.takewhile(
        lambda b: b <= 1.25 * device.most_images, (2**i for i in range(12))
    )
    images = list(powers)
    return lambda p: [p * b for b in images if p * b <= largest]


def quickest(at: Predictor, devices: int, batches: Batches) -> Plan:
    """Returns the quickest plan on so many devices.

    Raises:
      InputError: no batch gives each device an image.
    """
    plans = [at(devices=devices, global_batch_size=b) for b in batches(devices) if b >= devices]
    if not plans:
        raise InputError(
            f"No batch that may be tried gives each of {devices:,} devices an image. Use fewer "
            "devices, or allow a larger batch."
        )
    return min(plans, key=lambda plan: plan.minutes)


def for_deadline(at: Predictor, minutes: float, batches: Batches) -> Plan:
    """Returns the plan with the fewest devices that ends in time.

    Raises:
      InputError: no number of devices is quick enough; the message names the quickest plan.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"The deadline must be above 0 minutes. Received: {minutes!r}.")

    @functools.cache
    def best(p: int) -> Plan | None:
        """Returns the quickest plan on p devices, or on the next more that have a batch."""
        allowed = next((q for q in range(p, MOST_DEVICES + 1) if batches(q)), None)
        return quickest(at, allowed, batches) if allowed else None

    def too_slow(p: int) -> bool:
        plan = best(p)
        return plan is None or plan.minutes > minutes

    found = best(_last(too_slow, MOST_DEVICES) + 1)
    if found and found.minutes <= minutes:
        return found
    plans = [plan for i in range(MOST_DEVICES.bit_length()) if (plan := best(2**i))]
    slow = min(plans, key=lambda plan: plan.minutes)
    raise InputError(
        f"No number of {slow.accelerator} meets {minutes:g} minutes: the quickest plan takes "
        f"{slow.minutes:.3g}, with {slow.devices:,} devices and a batch of "
        f"{slow.global_batch_size:,}. Allow more time."
    )


def neighbours(at: Predictor, plan: Plan) -> tuple[list[Plan], list[Plan]]:
    """Returns the plans of a quarter to four times the devices.

    First those with the same global batch (strong scaling), then those with the same images per
    device (weak scaling); each by devices, the plan itself included.
    """
    factors = [f for f in (0.25, 0.5, 1, 2, 4) if (plan.devices * f) % 1 == 0]
    strong = [
        at(devices=int(plan.devices * f), global_batch_size=plan.global_batch_size)
        for f in factors
        if plan.devices * f <= plan.global_batch_size
    ]
    images = plan.global_batch_size / plan.devices
    return strong, [_weak(at, int(plan.devices * f), images) for f in factors]


def paying_plan(at: Predictor, images: float) -> Plan | None:
    """Returns the largest plan, at so many images per device, from which doubling pays.

    Devices and batch are doubled together. Up to the plan returned, twice the devices are at least
    `LEAST_SPEEDUP` times as fast; None where not even one device is worth doubling.
    """

    def pays(p: int) -> bool:
        return _weak(at, p, images).minutes >= LEAST_SPEEDUP * _weak(at, 2 * p, images).minutes

    p = _last(pays, MOST_DEVICES)
    return _weak(at, p, images) if p else None


def paying_devices(at: Predictor, global_batch_size: int) -> int:
    """Returns the most devices from which doubling pays at a fixed batch; 0 if none."""

    def pays(p: int) -> bool:
        one, two = (at(devices=q, global_batch_size=global_batch_size) for q in (p, 2 * p))
        return one.minutes >= LEAST_SPEEDUP * two.minutes

    return _last(pays, global_batch_size // 2)


def _weak(at: Predictor, devices: int, images: float) -> Plan:
    return at(devices=devices, global_batch_size=max(devices, round(devices * images)))


def _last(holds: Callable[[int], bool], most: int) -> int:
    """Returns the last p up to `most` at which a condition holds that ends once; 0 if nowhere."""
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low

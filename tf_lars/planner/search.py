"""Searches for plans: deadlines, neighbours, and the point up to which doubling pays."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence

from tf_lars.errors import InputError, require
from tf_lars.planner.devices import Device
from tf_lars.planner.prediction import Plan

MOST_DEVICES = 100_000
"""Limit of every search; no published result of ResNet-50 has more."""

LEAST_SPEEDUP = 1.5
"""Speedup from which doubling the devices pays: 75 % of the ideal."""

Predictor = Callable[..., Plan]
"""`predict` with all arguments given except `devices` and `global_batch_size`."""

Batches = Callable[[int], Sequence[int]]
"""Function from a number of devices to the global batches to try."""


def batches(device: Device, largest: int) -> Batches:
    """Returns the batches to try: powers of two per device that are expected to fit.

    Args:
      device: Device, whose `most_images` limit the images per device.
      largest: Largest global batch to try.
    """
    powers = itertools.takewhile(
        lambda b: b <= 1.25 * device.most_images, (2**i for i in range(12))
    )
    images = list(powers)
    return lambda p: [p * b for b in images if p * b <= largest]


def quickest(at: Predictor, devices: int, batches: Batches) -> Plan:
    """Returns the quickest plan for a number of devices.

    Raises:
      InputError: No batch has an image for every device.
    """
    plans = [at(devices=devices, global_batch_size=b) for b in batches(devices) if b >= devices]
    if not plans:
        raise InputError(
            f"None of the batches to try has an image for each of {devices:,} devices. Use fewer "
            "devices, or allow a larger batch."
        )
    return min(plans, key=lambda plan: plan.minutes)


def for_deadline(at: Predictor, minutes: float, batches: Batches) -> Plan:
    """Returns the plan with the fewest devices that meets a deadline.

    Raises:
      InputError: No number of devices is fast enough; the message gives the quickest plan.
    """
    require(0 < minutes < math.inf, "The deadline", "above 0 minutes", minutes)

    @functools.cache
    def best(p: int) -> Plan | None:
        """Returns the quickest plan on p devices, or on the next number that has a batch."""
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
    """Returns the plans for a quarter to four times the devices, this plan included.

    First those with the same global batch (strong scaling), then those with the same images per
    device (weak scaling); both in order of devices.
    """
    factors = [f for f in (0.25, 0.5, 1, 2, 4) if (plan.devices * f) % 1 == 0]
    strong = [
        at(devices=int(plan.devices * f), global_batch_size=plan.global_batch_size)
        for f in factors
        if plan.devices * f <= plan.global_batch_size
    ]
    images = plan.global_batch_size / plan.devices
    return strong, [_weak(at, int(plan.devices * f), images) for f in factors]


def paying_plan(
    at: Predictor,
    images: float,
    least_speedup: float = LEAST_SPEEDUP,
    time: Callable[[Plan], float] = operator.attrgetter("minutes"),
) -> Plan | None:
    """Returns the largest plan, at some images per device, from which doubling pays.

    Devices and batch are doubled together. Up to the returned plan, doubling gives at least the
    least speedup; None where it does not pay even from one device.

    Args:
      at: Predicts the plan for a number of devices and a batch.
      images: Images per device.
      least_speedup: Speedup from which doubling pays.
      time: Returns the time of a plan, in any unit.
    """

    def pays(p: int) -> bool:
        one, two = (time(_weak(at, q, images)) for q in (p, 2 * p))
        return one >= least_speedup * two

    p = _last(pays, MOST_DEVICES)
    return _weak(at, p, images) if p else None


def paying_devices(at: Predictor, global_batch_size: int) -> int:
    """Returns the largest number of devices from which doubling pays at a fixed batch, or 0."""

    def pays(p: int) -> bool:
        one, two = (at(devices=q, global_batch_size=global_batch_size) for q in (p, 2 * p))
        return one.minutes >= LEAST_SPEEDUP * two.minutes

    return _last(pays, global_batch_size // 2)


def _weak(at: Predictor, devices: int, images: float) -> Plan:
    return at(devices=devices, global_batch_size=max(devices, round(devices * images)))


def _last(holds: Callable[[int], bool], most: int) -> int:
    """Returns the last p up to `most` at which a condition holds, or 0.

    The condition holds for all smaller p, and for no larger one.
    """
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low

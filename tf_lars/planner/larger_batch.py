"""What twice the batch buys, by the critical batch: `launch.plan`'s last line."""

import dataclasses
import math
from typing import Any

from tf_lars.planner import search
from tf_lars.planner.examples_needed import ExamplesNeeded
from tf_lars.planner.prediction import Plan

LEAST_SAVING = 0.1
"""Share of the time below which doubling batch and devices hardly saves any."""


@dataclasses.dataclass(frozen=True)
class LargerBatch:
    """A plan beside those with twice its batch.

    Attributes:
      plan: The plan.
      needed: Examples that a batch needs, E(B).
      on_twice_the_devices: Plan with twice the batch and twice the devices.
      on_same_devices: Plan with twice the batch only.
      last_saving: Largest plan, at the images per device of the plan, from which doubling batch and
        devices saves `LEAST_SAVING` of the time; None if it never does.
    """

    plan: Plan
    needed: ExamplesNeeded
    on_twice_the_devices: Plan
    on_same_devices: Plan
    last_saving: Plan | None

    @classmethod
    def of(cls, at: search.Predictor, plan: Plan, needed: ExamplesNeeded) -> "LargerBatch":
        """Returns the comparison for a plan.

        Args:
          at: Predicts the plan for a number of devices and a batch.
          plan: The plan.
          needed: Examples that a batch needs.
        """
        devices, batch = plan.devices, plan.global_batch_size
        return cls(
            plan,
            needed,
            at(devices=2 * devices, global_batch_size=2 * batch),
            at(devices=devices, global_batch_size=2 * batch),
            search.paying_plan(
                at, batch / devices, 1 / (1 - LEAST_SAVING), lambda other: _time(other, needed)
            ),
        )

    @property
    def share(self) -> float:
        """The batch as a share of the critical batch, B / B_eff."""
        return self.plan.global_batch_size / self.needed.critical_batch

    @property
    def examples_factor(self) -> float:
        """Growth of the examples, E(2B) / E(B) = (1 + 2B/B_eff) / (1 + B/B_eff)."""
        batch = self.plan.global_batch_size
        return self.needed(2 * batch) / self.needed(batch)

    def as_json(self) -> dict[str, Any]:
        """Returns the comparison as values of JSON; null where a bound is infinite or unknown."""
        low, high = self.needed.critical_batches
        known = self.needed.knows_its_error
        return {
            "critical_batch": self.needed.critical_batch,
            "low": low if known else None,
            "high": high if known and math.isfinite(high) else None,
            "share_of_critical_batch": self.share,
            "twice_the_batch": {
                "examples_factor": self.examples_factor,
                "minutes_on_twice_the_devices": self.on_twice_the_devices.minutes,
                "minutes_on_the_same_devices": self.on_same_devices.minutes,
            },
            "least_saving": LEAST_SAVING,
            "saves_up_to_global_batch_size": self.last_saving
            and self.last_saving.global_batch_size,
        }

    def describe(self) -> str:
        """Returns the comparison in a sentence."""
        plan = self.plan
        saved = self._change(self.on_twice_the_devices)
        alone = self._change(self.on_same_devices)
        sentence = (
            f"Batch {plan.global_batch_size:,} is {self._part()} the critical batch of "
            f"{_two_digits(self.needed.critical_batch)}{self._interval()}; twice the batch costs "
            f"{self.examples_factor:.2f} times the examples and, on {2 * plan.devices:,} devices, "
            f"{saved} (on {plan.devices:,}, it {alone}); "
        )
        if self.last_saving is None:
            return f"{sentence}it never saves {LEAST_SAVING:.0%} or more."
        last = self.last_saving.global_batch_size
        if self.last_saving.devices >= search.MOST_DEVICES:
            return f"{sentence}up to {_two_digits(last)}, it saves at least {LEAST_SAVING:.0%}."
        return f"{sentence}beyond {_two_digits(last)}, it saves less than {LEAST_SAVING:.0%}."

    def _part(self) -> str:
        if 0.95 < self.share < 1.05:
            return "about"
        return f"{_two_digits(self.share)} {'of' if self.share < 1 else 'times'}"

    def _change(self, after: Plan) -> str:
        change = _time(after, self.needed) / _time(self.plan, self.needed) - 1
        if abs(change) < 0.005:
            return "takes as long"
        return f"saves {-change:.0%} of the time" if change < 0 else f"takes {change:.0%} longer"

    def _interval(self) -> str:
        low, high = self.needed.critical_batches
        if not self.needed.knows_its_error:
            return ""
        if low and math.isfinite(high):
            return f" ({_two_digits(low)} to {_two_digits(high)})"
        if low:
            return f" (at least {_two_digits(low)})"
        return f" (at most {_two_digits(high)})" if math.isfinite(high) else ""


def _time(plan: Plan, needed: ExamplesNeeded) -> float:
    """Returns the seconds of E(B)/B steps, not rounded, so that they compare where they are few."""
    batch = plan.global_batch_size
    return needed(batch) / batch * plan.step_seconds


def _two_digits(value: float) -> str:
    """Returns a number, rounded to two digits and without an exponent."""
    if value >= 10:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.2g}"

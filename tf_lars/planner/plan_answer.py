"""The answer of `launch.plan`: a plan beside others, as text and as JSON."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tf_lars.errors import InputError
from tf_lars.planner import plan_table, search
from tf_lars.planner.larger_batch import LargerBatch
from tf_lars.planner.prediction import Plan
from tf_lars.planner.reference_run import Scaling
from tf_lars.recipes import recipes


@dataclasses.dataclass(frozen=True)
class Answer:
    """A plan and what it is compared with; see `answer`.

    Attributes:
      plan: The plan that was asked for.
      same_batch: Plans for other numbers of devices, at the plan's batch.
      same_images: Plans for other numbers of devices, at the plan's images per device.
      paying: Largest plan, at the plan's images per device, from which doubling pays, if any.
      paying_devices: Largest number of devices from which doubling pays at the plan's batch.
      recipe: Settings for the plan's batch, or None.
      no_recipe: Reason why there is no recipe, or "".
      larger: What twice the batch buys, where the critical batch of the user's data is known.
      notes: Remarks on the examples and the memory that are needed.
      deadline_minutes: Time limit for the cheapest plan, or None.
    """

    plan: Plan
    same_batch: list[Plan]
    same_images: list[Plan]
    paying: Plan | None
    paying_devices: int
    recipe: recipes.Recipe | None
    no_recipe: str
    larger: LargerBatch | None
    notes: tuple[str, ...]
    deadline_minutes: float | None

    @property
    def cheapest(self) -> Plan | None:
        """The cheapest plan of the table that meets the deadline; None without a price."""
        return self._best(lambda plan: (plan.cost, plan.minutes))

    @property
    def quickest(self) -> Plan | None:
        """The quickest plan of the table; None without a price."""
        return self._best(lambda plan: (plan.minutes, plan.cost))

    def _best(self, key: Callable[[Plan], Any]) -> Plan | None:
        if self.plan.cost is None:
            return None
        limit = self.deadline_minutes or float("inf")
        plans = [p for p in (*self.same_batch, *self.same_images) if p.minutes <= limit]
        return min(plans, key=key)


def answer(
    at: search.Predictor,
    plan: Plan,
    *,
    optimizer: str,
    scaling: Scaling | None = None,
    deadline_minutes: float | None = None,
    remarks: tuple[str, ...] = (),
) -> Answer:
    """Returns a plan beside its neighbours.

    Args:
      at: Predicts the plan for a number of devices and a batch.
      plan: The plan.
      optimizer: Optimizer of the recipe.
      scaling: Examples that a batch needs on the user's data, by which `at` predicts.
      deadline_minutes: Time limit that the plan meets, or None.
      remarks: Further remarks for the user.
    """
    same_batch, same_images = search.neighbours(at, plan)
    recipe, no_recipe = None, ""
    if scaling:
        no_recipe = (
            "published settings are for ImageNet. Scale the learning rate of "
            f"{scaling.run.folder} (recipes.from_baseline; --baseline_learning_rate and "
            "--baseline_batch_size)."
        )
    else:
        try:
            recipe = recipes.for_model(plan.model, plan.global_batch_size, optimizer)
        except InputError as error:
            no_recipe = str(error)
    return Answer(
        plan=plan,
        same_batch=same_batch,
        same_images=same_images,
        paying=search.paying_plan(at, plan.global_batch_size / plan.devices),
        paying_devices=search.paying_devices(at, plan.global_batch_size),
        recipe=recipe,
        no_recipe=no_recipe,
        larger=LargerBatch.of(at, plan, scaling.needed) if scaling else None,
        notes=(*(scaling.notes if scaling else ()), *remarks),
        deadline_minutes=deadline_minutes,
    )


def as_json(answer: Answer) -> dict[str, Any]:
    """Returns the answer as values of JSON; what was not asked for is left out."""
    found: dict[str, Any] = {
        "plan": _fields(answer.plan),
        "same_batch": [_fields(plan) for plan in answer.same_batch],
        "same_images_per_device": [_fields(plan) for plan in answer.same_images],
        "doubling_pays": {
            "least_speedup": search.LEAST_SPEEDUP,
            "up_to_global_batch_size": answer.paying and answer.paying.global_batch_size,
            "up_to_devices_at_this_batch": answer.paying_devices,
        },
        "recipe": answer.recipe and dataclasses.asdict(answer.recipe),
    }
    if answer.cheapest and answer.quickest:
        found |= {"cheapest": _fields(answer.cheapest), "quickest": _fields(answer.quickest)}
    if answer.larger:
        found["larger_batch"] = answer.larger.as_json() | {"notes": answer.notes}
    if answer.notes:
        found["notes"] = answer.notes
    return found


def _fields(plan: Plan) -> dict[str, Any]:
    fields = dataclasses.asdict(plan)
    if fields["epochs_interval"] is None:
        del fields["epochs_interval"]
    return fields


def as_text(answer: Answer) -> str:
    """Returns the answer as lines of text."""
    plan = answer.plan
    images = f"{plan.global_batch_size / plan.devices:,.4g} images per device"
    lines = [
        f"{plan.model} on {plan.devices:,} x {plan.accelerator}, global batch "
        f"{plan.global_batch_size:,}: {plan_table.planned_time(plan)}",
        *(f"note        {note}" for note in (*plan.notes, *answer.notes)),
        answer.recipe.describe() if answer.recipe else f"recipe      none: {answer.no_recipe}",
        "",
        plan_table.header(with_cost=plan.cost is not None),
        *(plan_table.row(p, marked=p == plan) for p in answer.same_batch),
        f"at {images}:",
        *(plan_table.row(p, marked=p == plan) for p in answer.same_images),
    ]
    if any(p.epochs_extrapolated for p in [*answer.same_batch, *answer.same_images]):
        lines.append("~ extrapolated beyond the largest batch with a published result")
    speedup = f"a speedup of at least {search.LEAST_SPEEDUP:g}"
    with_batch = f"At {images}, doubling devices and batch"
    if answer.paying:
        with_batch += (
            f" gives {speedup} up to a batch of {answer.paying.global_batch_size:,} "
            f"({answer.paying.devices:,} devices). Beyond that, a larger batch stops paying."
        )
    else:
        with_batch += f" never gives {speedup}."
    alone = "At this batch, doubling the devices"
    if answer.paying_devices:
        alone += (
            f" gives {speedup} up to {answer.paying_devices:,} devices. Beyond that, more devices "
            "stop paying."
        )
    else:
        alone += f" never gives {speedup}."
    lines += ["", with_batch, alone]
    limit = answer.deadline_minutes
    within = f" within {plan_table.duration(limit)}" if limit else ""
    if answer.cheapest and answer.quickest:
        lines.append(f"The cheapest of these plans{within} has {_in_words(answer.cheapest)}.")
        lines.append(f"The quickest of these plans has {_in_words(answer.quickest)}.")
    if answer.larger:
        lines.append(answer.larger.describe())
    return "\n".join(lines)


def _in_words(plan: Plan) -> str:
    plural = "" if plan.devices == 1 else "s"
    return (
        f"{plan.devices:,} device{plural} and a batch of {plan.global_batch_size:,}: "
        f"{plan_table.duration(plan.minutes)} for {plan.cost:,.2f}"
    )

"""Plans as text: a line for each, and the time in words."""

import math

from tf_lars.planner.prediction import Plan


def planned_time(plan: Plan) -> str:
    """Returns the time of a plan and its likely range, in words."""
    low, high = (plan.minutes * math.exp(sign * plan.relative_error) for sign in (-1, 1))
    return (
        f"{_duration(plan.minutes)}, with two chances in three between {_duration(low)} and "
        f"{_duration(high)}"
    )


def header(*, with_cost: bool) -> str:
    """Returns the line above those of `row`."""
    return _columns(
        "devices", "batch", "epochs", "steps", "ms/step", "comm.", "overhead", "time", "images/s",
        "cost" if with_cost else "",
    )  # fmt: skip


def row(plan: Plan, *, marked: bool) -> str:
    """Returns a plan as a line; one of them may be marked."""
    return _columns(
        f"{'> ' if marked else ''}{plan.devices:,}",
        f"{plan.global_batch_size:,}",
        f"{'~' if plan.epochs_extrapolated else ''}{plan.epochs:.1f}",
        f"{plan.steps:,}",
        f"{1e3 * plan.step_seconds:,.4g}",
        f"{plan.communication_fraction:.1%}",
        f"{plan.overhead_fraction:.1%}",
        _duration(plan.minutes),
        f"{plan.images_per_second:,.0f}",
        "" if plan.cost is None else f"{plan.cost:,.2f}",
    )


def _columns(*cells: str) -> str:
    widths = (10, 10, 8, 11, 10, 8, 10, 11, 13, 12)
    return "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.3g} s"
    if minutes < 120:
        return f"{minutes:.3g} min"
    return f"{minutes / 60:,.3g} h"

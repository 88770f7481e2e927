"""Plans as text: a table with a line per plan, and the planned time in words."""

from tf_lars.planner.prediction import Plan

_WIDTHS = (10, 10, 8, 11, 10, 8, 10, 11, 13, 12)


def planned_time(plan: Plan) -> str:
    """Returns the time of a plan and its likely range, in words."""
    low, high = plan.minutes_interval
    return (
        f"{duration(plan.minutes)}, with two chances in three between {duration(low)} and "
        f"{duration(high)}"
    )


def header(*, with_cost: bool) -> str:
    """Returns the heading of the table."""
    names = ["devices", "batch", "epochs", "steps", "ms/step", "comm.", "overhead", "time"]
    names += ["images/s", "cost" if with_cost else ""]
    return _line(*names)


def row(plan: Plan, *, marked: bool) -> str:
    """Returns the line of a plan; ">" marks it, and "~" marks extrapolated epochs."""
    return _line(
        f"{'> ' if marked else ''}{plan.devices:,}",
        f"{plan.global_batch_size:,}",
        f"{'~' if plan.epochs_extrapolated else ''}{plan.epochs:.1f}",
        f"{plan.steps:,}",
        f"{1e3 * plan.step_seconds:,.4g}",
        f"{plan.communication_fraction:.1%}",
        f"{plan.overhead_fraction:.1%}",
        duration(plan.minutes),
        f"{plan.images_per_second:,.0f}",
        "" if plan.cost is None else f"{plan.cost:,.2f}",
    )


def _line(*cells: str) -> str:
    aligned = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return "".join(aligned).rstrip()


def duration(minutes: float) -> str:
    """Returns a time in its unit, such as "12.5 min"."""
    if minutes < 1:
        return f"{60 * minutes:.3g} s"
    if minutes < 120:
        return f"{minutes:.3g} min"
    return f"{minutes / 60:,.3g} h"

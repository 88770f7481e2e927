"""Plots a plan: time to train against devices and batch, with the published results."""

import math
from collections.abc import Sequence

from tf_lars.errors import InputError
from tf_lars.planner.prediction import Plan
from tf_lars.planner.published import published_results
from tf_lars.planner.search import Predictor

_COLOURS = ("tab:blue", "tab:orange", "tab:green")


def draw(at: Predictor, plan: Plan, paying: Plan | None, path: str) -> None:
    """Writes the plot as a PNG file.

    Left: minutes against devices, at the plan's batch and at its images per device. Right: minutes
    against the batch, on the plan's devices. Points are published results of the same model: on the
    left of all accelerators, filled for the plan's own; on the right of the plan's accelerator.

    Args:
      at: Predicts the plan for a number of devices and a batch.
      plan: The plan, drawn as a star.
      paying: Largest plan from which doubling devices and batch pays, drawn as a vertical line.
      path: Path of the file.

    Raises:
      InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{plan.model} on {plan.accelerator}: {plan.devices:,} devices, global batch "
        f"{plan.global_batch_size:,}, {plan.minutes:.3g} minutes"
    )
    devices_axes, batch_axes = figure.subplots(1, 2)
    results = [r for r in published_results() if r.model == plan.model and r.global_batch_size]
    own = [r for r in results if r.accelerator == plan.accelerator]
    others = [r for r in results if r.accelerator != plan.accelerator]
    _against_devices(devices_axes, at, plan, own, others)
    _against_batch(batch_axes, at, plan, paying, own)
    for axes in (devices_axes, batch_axes):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylabel("minutes")
        axes.xaxis.set_major_formatter(_thousands)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The picture must go to a file that can be written, such as plan.png. Received: "
            f"{path!r} ({error})."
        ) from error


def _against_devices(axes, at: Predictor, plan: Plan, own, others) -> None:
    p, batch = plan.devices, plan.global_batch_size
    images = batch / p
    counts = _powers(max(1, p // 32), p * 32)
    _line(axes, at, [(c, batch) for c in counts if c <= batch], 0, f"batch {batch:,}", "devices")
    grown = [(c, max(c, round(c * images))) for c in counts]
    _line(axes, at, grown, 1, f"{images:,.4g} images per device", "devices")
    low, high = min(counts) / 1.5, max(counts) * 1.5
    shown = [r for r in others if low <= r.devices <= high]
    _points(axes, [(r.devices, r.minutes) for r in shown], "other accelerators", filled=False)
    shown = [r for r in own if low <= r.devices <= high]
    _points(axes, [(r.devices, r.minutes) for r in shown], f"published, {plan.accelerator}")
    axes.plot(p, plan.minutes, "*", ms=15, color="tab:red", label="this plan")
    axes.set_xlabel("devices")


def _against_batch(axes, at: Predictor, plan: Plan, paying: Plan | None, own) -> None:
    p, batch = plan.devices, plan.global_batch_size
    near = [r for r in own if p / 1.01 <= r.devices <= p * 1.01]
    sizes = [batch, *(r.global_batch_size for r in near)]
    batches = _powers(max(p, min(sizes) // 8), max(sizes) * 8)
    _line(axes, at, [(p, b) for b in batches], 0, f"{p:,} devices", "batch")
    images = batch / p
    counts = _powers(max(1, round(batches[0] / images)), max(1, round(batches[-1] / images)))
    grown = [(c, max(c, round(c * images))) for c in counts]
    _line(axes, at, grown, 1, f"{images:,.4g} images per device", "batch")
    _points(axes, [(r.global_batch_size, r.minutes) for r in near], f"published, {p:,} devices")
    if paying:
        axes.axvline(
            paying.global_batch_size,
            color="grey",
            linestyle="--",
            label=f"doubling pays up to {paying.global_batch_size:,}",
        )
    axes.plot(batch, plan.minutes, "*", ms=15, color="tab:red", label="this plan")
    axes.set_xlabel("global batch")


def _line(axes, at: Predictor, where: Sequence[tuple[int, int]], colour: int, label, x) -> None:
    """Plots plans at `(devices, batch)`, with their errors as a band."""
    plans = []
    for devices, batch in where:
        try:
            plans.append(at(devices=devices, global_batch_size=batch))
        except InputError:  # No epochs are published for this batch.
            continue
    if not plans:
        return
    xs = [plan.devices if x == "devices" else plan.global_batch_size for plan in plans]
    low, high = zip(*(plan.minutes_interval for plan in plans), strict=True)
    axes.plot(xs, [plan.minutes for plan in plans], color=_COLOURS[colour], label=label)
    axes.fill_between(xs, low, high, color=_COLOURS[colour], alpha=0.15, linewidth=0)


def _points(axes, points: Sequence[tuple[float, float]], label: str, *, filled=True) -> None:
    if not points:
        return
    style = (
        {"color": "black", "s": 18, "zorder": 3}
        if filled
        else {"facecolors": "none", "edgecolors": "lightgrey", "s": 14, "zorder": 1}
    )
    axes.scatter(*zip(*points, strict=True), label=label, **style)


def _powers(low: int, high: int) -> list[int]:
    """Returns whole numbers from low to high, about three per doubling."""
    steps = max(1, round(3 * math.log2(high / low)))
    return sorted({round(low * (high / low) ** (i / steps)) for i in range(steps + 1)})


def _thousands(value: float, _) -> str:
    return f"{value:,.0f}"

"""What branches say about the critical batch, in words and as a picture."""

import io
from collections.abc import Mapping

import numpy as np

from tf_lars import files
from tf_lars.study.critical_point import CriticalPoint
from tf_lars.study.examples_law import LawFit


def sentence(
    step: int, point: CriticalPoint, tolerance: float, law: LawFit, noise_scale: float | None
) -> str:
    """Returns what was measured at a step, with the noise scale beside it."""
    rule = f"within {tolerance:.0%} of the loss at {point.batches[0]:,}"
    low, high = (None if end is None else f"{end:,.0f}" for end in (point.low, point.high))
    if point.critical_batch is not None:
        told = f"batches up to {point.critical_batch:,.0f} stay {rule}"
        if low and high:
            told += f", with 95 % certainty between {low} and {high}"
        elif low:
            told += f", with 95 % certainty above {low}"
        elif high:
            told += f", with 95 % certainty below {high}"
        else:
            told += ", which is uncertain: more --repeats or longer branches tell"
    elif point.excess[-1] <= tolerance:
        told = f"all batches up to {point.batches[-1]:,} stay {rule}"
        told += f", at least {low} with 95 % certainty" if low else ""
    else:
        told = f"no batch above {point.batches[0]:,} stays {rule}"
        told += f", at most {high} with 95 % certainty" if high else ""
    noise = f"; the gradient noise scale is {noise_scale:,.0f}" if noise_scale else ""
    return f"step {step:,}: {told}; {_by_examples(law)}{noise}"


def _by_examples(law: LawFit) -> str:
    """Returns B_crit in words."""
    low, high = (None if end is None else f"{end:,.0f}" for end in (law.low, law.high))
    if law.critical_batch is not None:
        between = {
            (True, True): f" ({low} to {high})",
            (True, False): f" ({low} or more)",
            (False, True): f" ({high} or less)",
            (False, False): "",
        }[bool(low), bool(high)]
        return f"twice the examples of a very small batch at {law.critical_batch:,.0f}{between}"
    if low:
        return f"twice the examples of a very small batch above {low} only"
    return "the branches do not tell at which batch twice the examples are needed"


def draw(points: Mapping[int, CriticalPoint], tolerance: float, path: str) -> None:
    """Draws the excess of the loss against the batch, a panel for each step, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(points), 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(points), squeeze=False, sharey=True)[0]
    for axes, (step, point) in zip(panels, points.items(), strict=True):
        excess = 100 * np.array(point.excess)
        error = 100 * np.nan_to_num(np.array(point.error), posinf=0)
        finite = np.isfinite(excess)
        axes.errorbar(
            np.array(point.batches)[finite],
            excess[finite],
            error[finite],
            marker="o",
            capsize=3,
            label="branches, mean and standard error",
        )
        axes.axhline(100 * tolerance, color="tab:red", linestyle=":", label="tolerance")
        if point.critical_batch is not None:
            axes.axvline(point.critical_batch, color="tab:green", label="critical batch")
        if point.low is not None or point.high is not None:
            low, high = point.low or point.batches[0], point.high or point.batches[-1]
            axes.axvspan(low, high, color="tab:green", alpha=0.12, label="95 %")
        axes.set_xscale("log", base=2)
        axes.set_xticks(point.batches, [f"{batch:,}" for batch in point.batches], rotation=45)
        limit = 100 * max(4 * tolerance, 0.1)
        axes.set_ylim(-0.3 * limit, limit)
        axes.set_title(f"step {step:,}")
        axes.set_xlabel("global batch")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"loss over that at {next(iter(points.values())).batches[0]:,}, % more")
    panels[0].legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with files.writing(path), files.open_file(path, "wb") as file:
        file.write(picture.getvalue())

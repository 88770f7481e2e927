"""Plots a learning rate schedule before training."""

from typing import Any

import numpy as np

from tf_lars.errors import InputError


def draw(
    steps: np.ndarray,
    rates: np.ndarray,
    path: str,
    title: str,
    *,
    steps_per_epoch: float,
    warmup_steps: int,
) -> None:
    """Writes the plot as a PNG file: rate against epochs (below) and steps (above), warm-up shaded.

    Args:
      steps: Increasing steps, `[n]`.
      rates: Learning rates at these steps, `[n]`.
      path: Path of the file.
      title: Title of the plot.
      steps_per_epoch: Steps per epoch, N / B.
      warmup_steps: Steps of the warm-up, from the first of `steps`; or 0.

    Raises:
      InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    first = steps[0] / steps_per_epoch
    axes.plot(steps / steps_per_epoch, rates, color="tab:green")
    if warmup_steps:
        end = (steps[0] + warmup_steps) / steps_per_epoch
        axes.axvspan(first, end, color="tab:orange", alpha=0.15, label="warm-up")
        axes.legend(loc="upper right")
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_xlim(left=first)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)

    def to_steps(epoch: Any) -> Any:
        return epoch * steps_per_epoch

    def to_epochs(step: Any) -> Any:
        return step / steps_per_epoch

    above = axes.secondary_xaxis("top", functions=(to_steps, to_epochs))
    above.set_xlabel("step")
    above.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(
            "The picture must go to a file that can be written, such as schedule.png. Received: "
            f"{path!r} ({error.strerror})."
        ) from error

"""Plots a learning rate schedule before training."""

from typing import Any

import numpy as np

from tf_lars.errors import InputError


def _ends(values: np.ndarray) -> tuple[Any, Any]:
    """Returns the first and the last of increasing values."""
    return values[0], values[-1]


def draw(
    steps: np.ndarray,
    epochs: np.ndarray,
    rates: np.ndarray,
    path: str,
    title: str,
    *,
    warmup_end: float | None,
) -> None:
    """Writes the plot as a PNG file: rate against epochs (below) and steps (above), warm-up shaded.

    Args:
      steps: Increasing steps, `[n]`.
      epochs: Epochs that they make, increasing, `[n]`.
      rates: Learning rates at these steps, `[n]`.
      path: Path of the file.
      title: Title of the plot.
      warmup_end: Epoch at which the warm-up from the first of `epochs` on ends; None without one.

    Raises:
      InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.plot(epochs, rates, color="tab:green")
    if warmup_end is not None:
        axes.axvspan(epochs[0], warmup_end, color="tab:orange", alpha=0.15, label="warm-up")
        axes.legend(loc="upper right")
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_xlim(left=epochs[0])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)

    # Outside of the run, where axes may reach, the steps are as long as at its end.
    slope = (steps[-1] - steps[-2]) / (epochs[-1] - epochs[-2]) if len(steps) > 1 else 1.0

    def to_steps(epoch: Any) -> Any:
        return np.interp(epoch, epochs, steps) + slope * (epoch - np.clip(epoch, *_ends(epochs)))

    def to_epochs(step: Any) -> Any:
        return np.interp(step, steps, epochs) + (step - np.clip(step, *_ends(steps))) / slope

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

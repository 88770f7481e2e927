"""Plots a run: loss, accuracy and learning rate over the epochs."""

import io
from collections.abc import Sequence

from tf_lars import files


def draw(history: Sequence[dict[str, float]], path: str, title: str) -> None:
    """Writes the plot of a run as a PNG file.

    Args:
      history: Logs of each epoch, as returned by `Trainer.fit`.
      path: Path of the file, local or remote.
      title: Title above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name in ((loss, "loss"), (accuracy, "top1"), (accuracy, "top5")):
        colour = "tab:blue" if name != "top5" else "tab:orange"
        label = {"loss": "", "top1": "top-1, ", "top5": "top-5, "}[name]
        _plot(axes, history, name, color=colour, linestyle=":", label=f"{label}training")
        _plot(
            axes, history, f"val_{name}", color=colour, marker="o", ms=3, label=f"{label}validation"
        )
    _plot(rate, history, "learning_rate", color="tab:green")
    losses = [entry[name] for entry in history for name in ("loss", "val_loss") if name in entry]
    if 0 < 20 * min(losses) < max(losses):
        loss.set_yscale("log")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    final = [entry["val_top1"] for entry in history if "val_top1" in entry]
    if final:
        accuracy.annotate(
            f"{final[-1]:.2%}",
            (history[-1]["epoch"], final[-1]),
            xytext=(-4, -14),
            textcoords="offset points",
            ha="right",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        )
    for axes, heading in (
        (loss, "loss"),
        (accuracy, "accuracy"),
        (rate, "learning rate at the end of the epoch"),
    ):
        axes.set_title(heading)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.legend()
    accuracy.legend(loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with files.open_file(path, "wb") as file:
        file.write(picture.getvalue())


def _plot(axes, history: Sequence[dict[str, float]], name: str, **style) -> None:
    points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), **style)

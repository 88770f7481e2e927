"""A chart of the memory that steps need, against the batch per device."""

import io
from collections.abc import Sequence

from tf_lars import files
from tf_lars.planner.compiled_steps import GIB, CompiledStep


def draw(steps: Sequence[CompiledStep], path: str) -> None:
    """Draws the memory of each target over the batch as a PNG file, beside what its devices have.

    Steps whose memory the compiler does not tell are left out.

    Raises:
      InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    batches = sorted({step.per_replica_batch_size for step in steps})
    for number, target in enumerate(dict.fromkeys(step.target for step in steps)):
        known = [s for s in steps if s.target == target and s.peak_bytes is not None]
        known.sort(key=lambda step: step.per_replica_batch_size)
        if not known:
            continue
        colour = f"C{number}"
        x = [step.per_replica_batch_size for step in known]
        y = [(step.peak_bytes or 0) / GIB for step in known]
        axes.plot(x, y, color=colour, label=target, zorder=2)
        for one_x, one_y, step in zip(x, y, known, strict=True):
            axes.plot(one_x, one_y, "o" if step.fits else "x", color=colour, markersize=8, zorder=3)
        there = known[0].device_bytes / GIB
        axes.axhline(there, color=colour, linestyle=":", alpha=0.7, zorder=1)
        axes.annotate(
            f"{target.partition(':')[0]}: {there:.4g} GiB",
            (0.99, there),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=colour,
            fontsize=8,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    low, high = (2**10, 0) if not batches else axes.get_ylim()
    ticks = [2.0**i for i in range(-6, 10) if low <= 2.0**i <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("images per device")
    axes.set_ylabel("memory of a device, GiB")
    first = steps[0]
    axes.set_title(
        f"{first.model}, {first.image_size} px, {first.precision}, {first.optimizer}: memory that "
        "the compiler counts"
    )
    axes.plot([], [], "o", color="grey", label="fits")
    axes.plot([], [], "x", color="grey", label="does not fit")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with files.writing(path), files.open_file(path, "wb") as file:
        file.write(picture.getvalue())

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
        style = ("-", "--", "-.")[number % 3]  # lines of similar devices cover each other
        axes.plot(x, y, style, color=colour, label=target, zorder=2)
        for one_x, one_y, step in zip(x, y, known, strict=True):
            axes.plot(one_x, one_y, "o" if step.fits else "x", color=colour, markersize=8, zorder=3)
        axes.axhline(known[0].device_bytes / GIB, color=colour, linestyle=":", zorder=1)
    for there, names in _device_memories(steps):
        axes.annotate(
            f"{', '.join(names)}: {there:.1f} GiB",
            (0.01, there),
            xycoords=("axes fraction", "data"),
            va="bottom",
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
    axes.legend(loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with files.writing(path), files.open_file(path, "wb") as file:
        file.write(picture.getvalue())


def _device_memories(steps: Sequence[CompiledStep]) -> list[tuple[float, list[str]]]:
    """Returns the memories of devices in GiB with their names; similar ones share a label."""
    by_name = {step.target.partition(":")[0]: step.device_bytes / GIB for step in steps}
    labels: list[tuple[float, list[str]]] = []
    for name, there in sorted(by_name.items(), key=lambda item: item[1]):
        if labels and there < 1.1 * labels[-1][0]:
            labels[-1] = (there, [*labels[-1][1], name])
        else:
            labels.append((there, [name]))
    return labels

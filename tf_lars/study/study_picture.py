"""Draws a study: accuracy against the batch and the learning rate, and with other augmentation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tf_lars import files
from tf_lars.study import result_table
from tf_lars.study.paired_differences import half_width
from tf_lars.study.result_table import NAMES, Accuracy
from tf_lars.study.study_presets import StudySettings
from tf_lars.study.trials import (
    Cell,
    Results,
    Study,
    chosen,
    linear_rule,
)

COLOURS = {
    "lars": "tab:blue",
    "sgd": "tab:orange",
    "nesterov": "tab:green",
    "lamb": "tab:red",
    "adamw": "tab:purple",
    "muon": "tab:brown",
}
_PERCENT = "test accuracy"


def draw(
    study: Study, results: Results, output: str, title: str, target_points: float
) -> list[str]:
    """Writes the figures of all trials that have run, as PNG files, and returns their paths.

    Small points are seeds, large ones their means; bars are 95 % confidence intervals of the mean,
    for three seeds or more.

    Args:
      study: The study.
      results: Results of the trials that have run.
      output: Path without extension.
      title: Title above the panels, before the number of epochs.
      target_points: See `result_table.tables`.

    Raises:
      InputError: A file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {
        "batch": lambda figure: _draw_batches(figure, study, results, target_points),
        "rates": lambda figure: _draw_rates(figure, study, results),
    }
    if study.other_augmentation:
        drawn["augmentation"] = lambda figure: _draw_augmentation(figure, study, results)
    paths = []
    for name, fill in drawn.items():
        width = {"batch": 11.0, "augmentation": 7.5}.get(name, 5.5 * len(_rate_batches(study)))
        figure = Figure(
            figsize=(max(7.5, width), 5.2 if name == "rates" else 4.6),
            dpi=110,
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        epochs = study.augmentation_epochs if name == "augmentation" else study.epochs
        figure.suptitle(f"{title}, {_length(study, epochs)}", fontsize=10)
        fill(figure)
        paths.append(f"{output}_{name}.png")
        with files.writing(paths[-1]):
            figure.savefig(paths[-1])
    return paths


def title(settings: StudySettings, data: str) -> str:
    """Returns a title for the figures of a study, given the name of its data set."""
    return f"{settings.model.rpartition(':')[2]} on {data}, {settings.image_size} px"


def _length(study: Study, epochs: int) -> str:
    warmup = study.warmup_epochs * epochs / study.epochs
    return f"{epochs} epochs, {warmup:g} of them warm-up"


def _draw_batches(figure, study: Study, results: Results, target_points: float) -> None:
    left, right = figure.subplots(1, 2)
    small = result_table.baseline_accuracy(study, results)
    for optimizer in study.optimizers:
        own = [cell for cell in study.cells if cell.optimizer == optimizer]
        more = [cell for cell in study.equal_steps_cells if cell.optimizer == optimizer]
        for cells, name, style in (
            (own, NAMES[optimizer], {}),
            (more, f"{NAMES[optimizer]}, as many steps as the baseline", _HOLLOW),
        ):
            _over_batches(left, study, results, cells, label=name, **style)
            if small:
                target = small.mean - target_points / 100
                _steps_to_target(right, study, results, cells, target, label=name, **style)
    if small:
        _points(left, {study.baseline_batch_size: small}, "black", marker="s", ls="none")
    _draw_baseline(left, study, results)
    left.set_title("accuracy after the same epochs, every rate tuned alike", fontsize=10)
    _as_accuracy(left)
    if small:
        _draw_ideal(right, study, results, small.mean - target_points / 100)
        right.set_title(f"steps to {small.mean - target_points / 100:.1%}", fontsize=10)
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(_number)
    right.set_ylabel("steps, median over seeds that all reach it")
    for axes in (left, right):
        _batch_axis(axes, sorted({study.baseline_batch_size, *study.batch_sizes}))
        _legend(axes)


_HOLLOW: dict[str, Any] = {"linestyle": "--", "mfc": "white"}


def _rate_batches(study: Study) -> list[int]:
    return sorted(study.batch_sizes)


def _draw_rates(figure, study: Study, results: Results) -> None:
    batches = _rate_batches(study)
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for axes, batch in zip(panels, batches, strict=True):
        for optimizer in study.optimizers:
            _one_rate_curve(axes, study, results, Cell(optimizer, batch, study.epochs))
        rule = linear_rule(study, results, batch)
        if rule and {"sgd", "nesterov"} & {*study.optimizers}:
            axes.axvline(rule, color="grey", ls=":", label="linear rule, from the baseline")
        _draw_baseline(axes, study, results)
        axes.set_title(f"every learning rate at batch {batch:,}", fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate at the end of the warm-up")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _as_accuracy(axes)
        _legend(axes, below=True)


def _one_rate_curve(axes, study: Study, results: Results, cell: Cell) -> None:
    found = result_table.over_rates(study, results, cell)
    if not found:
        return
    label, line = NAMES[cell.optimizer], {"ls": "none"}
    if study.tune == ("learning_rate",):
        within = result_table.plateau({rate: one.mean for rate, one in found.items()}, 1)
        label += f", within a point of its best: {within}"
        line = {"ls": "-"}
        axes.axvspan(within.low, within.high, color=COLOURS[cell.optimizer], alpha=0.08, lw=0)
    _points(axes, found, COLOURS[cell.optimizer], label=label, **line)


def _draw_augmentation(figure, study: Study, results: Results) -> None:
    axes = figure.subplots()
    names = {"none": "none", "pad_crop": "pad and crop", "reference": "random box"}
    ours, other = (names.get(n, n) for n in (study.augmentation, study.other_augmentation))
    found = result_table.accuracies_by_augmentation(study, results)
    for shift, which, name, style in (
        (-0.12, 0, f"augmentation: {ours}", {}),
        (0.12, 1, f"augmentation: {other}", {"mfc": "white"}),
    ):
        for i, (cell, pair) in enumerate(found.items()):
            colour = COLOURS[cell.optimizer]
            label = name if not i else None
            _points(axes, {i + shift: pair[which]}, colour, label=label, ls="none", **style)
    axes.set_xticks(
        range(len(found)), [f"{NAMES[c.optimizer]}\n{c.global_batch_size:,}" for c in found]
    )
    axes.set_xlim(-0.5, max(0.5, len(found) - 0.5))
    axes.set_title("with and without augmentation, at the same learning rates", fontsize=10)
    _as_accuracy(axes)
    _legend(axes)


def _over_batches(
    axes, study: Study, results: Results, cells: Sequence[Cell], **style: Any
) -> None:
    """Plots accuracy against the batch, for the cells that have run."""
    found: dict[float, Accuracy] = {}
    for cell in sorted(cells, key=lambda cell: cell.global_batch_size):
        one = result_table.accuracy(study, results, chosen(study, cell))
        if one:
            found[cell.global_batch_size * _shift(study, cell.optimizer)] = one
    if found:
        _points(axes, found, COLOURS[cells[0].optimizer], **style)


def _steps_to_target(
    axes, study: Study, results: Results, cells: Sequence[Cell], target: float, **style: Any
) -> None:
    import statistics

    found = {}
    for cell in sorted(cells, key=lambda cell: cell.global_batch_size):
        one = result_table.to_target(study, results, cell, target)
        if one and one.is_reached:
            x = cell.global_batch_size * _shift(study, cell.optimizer)
            found[x] = statistics.median(one.steps)
    if found:
        style = {"marker": "o", "ms": 5, "color": COLOURS[cells[0].optimizer]} | style
        axes.plot(list(found), list(found.values()), **style)


def _draw_ideal(axes, study: Study, results: Results, target: float) -> None:
    """Draws the baseline's steps to the target, and steps in inverse proportion to the batch."""
    import statistics

    one = result_table.to_target(study, results, study.baseline, target)
    if not one or not one.steps:
        return
    steps, batch = statistics.median(one.steps), study.baseline_batch_size
    largest = max(batch, *study.batch_sizes)
    axes.plot([batch], [steps], "ks", ms=5, label=f"baseline: SGD at batch {batch:,}")
    axes.plot(
        [batch, largest],
        [steps, steps * batch / largest],
        color="grey",
        ls=":",
        label="the same number of examples",
    )


def _shift(study: Study, optimizer: str) -> float:
    """Returns a factor that places optimizers at the same batch side by side."""
    place = study.optimizers.index(optimizer) - (len(study.optimizers) - 1) / 2
    return 1.04**place


def _points(axes, found: Mapping[float, Accuracy], colour: str, **style: Any) -> None:
    """Plots means with their confidence intervals, and every seed as a small point."""
    means = [one.mean for one in found.values()]
    halves = [half_width(one.values) if len(one.values) > 2 else 0.0 for one in found.values()]
    style = {"marker": "o", "ms": 6, "capsize": 2, "lw": 1.4, "elinewidth": 1} | style
    axes.errorbar(list(found), means, yerr=halves, color=colour, **style)
    many = [(x, value) for x, one in found.items() if len(one.values) > 1 for value in one.values]
    if many:
        axes.scatter(*zip(*many, strict=True), s=8, color=colour, alpha=0.5, linewidths=0, zorder=3)


def _draw_baseline(axes, study: Study, results: Results) -> None:
    found = result_table.baseline_accuracy(study, results)
    if not found:
        return
    # Keeps the band of a single seed visible.
    low, high = min(*found.values, found.mean - 0.001), max(*found.values, found.mean + 0.001)
    axes.axhspan(
        low,
        high,
        color="grey",
        alpha=0.35,
        linewidth=0,
        label=f"baseline: SGD at batch {study.baseline_batch_size:,}, {found.mean:.1%}, "
        f"{len(found.values)} seed{'s'[: len(found.values) > 1]}",
    )


def _legend(axes, *, below: bool = False) -> None:
    if axes.get_legend_handles_labels()[0]:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)} if below else {}
        axes.legend(fontsize=8, **place)


def _as_accuracy(axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(_PERCENT)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(alpha=0.3)


def _batch_axis(axes, batches: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [f"{b:,}" for b in batches])
    axes.set_xlim(min(batches) / 1.25, max(batches) * 1.25)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("global batch")
    axes.grid(alpha=0.3)


def _number(value: float, _) -> str:
    return f"{value:,.0f}" if value >= 1 and math.isfinite(value) else f"{value:g}"

"""Plots a study in four panels, each with the small-batch baseline as a band."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tf_lars.errors import InputError
from tf_lars.study import result_table, trials
from tf_lars.study.trials import Results, Study, Trial

_COLOURS = {"lars": "tab:blue", "sgd": "tab:orange", "nesterov": "tab:green"}
_LABELS = {"lars": "LARS", "sgd": "SGD", "nesterov": "Nesterov"}
# Places points of different optimizers at the same batch side by side.
_SHIFTS = {"sgd": 0.97, "lars": 1.0, "nesterov": 1.03}


def draw(study: Study, results: Results, path: str, title: str) -> None:
    """Writes the plot of all trials that have run as a PNG file.

    Points are mean test accuracies over the seeds; bars range from the worst seed to the best.

    Args:
      study: The study.
      results: Results of the trials that have run.
      path: Path of the file.
      title: Title above the panels.

    Raises:
      InputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, PercentFormatter

    figure = Figure(figsize=(13, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (by_rule, best), (rates, augmented) = figure.subplots(2, 2)
    best.sharey(by_rule)
    _draw_rule(by_rule, study, results)
    _draw_best(best, study, results)
    _draw_rates(rates, study, results)
    _draw_augmentation(augmented, study, results)
    for axes in (by_rule, best, augmented):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(study.batch_sizes), [f"{b:,}" for b in sorted(study.batch_sizes)])
        axes.set_xlim(min(study.batch_sizes) / 1.15, max(study.batch_sizes) * 1.15)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("global batch")
    for axes in (by_rule, best, rates, augmented):
        _draw_baseline(axes, study, results)
        axes.set_ylabel("test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="best")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The picture must go to a file that can be written. Received: {path!r} ({error})."
        ) from error


def _draw_rule(axes, study: Study, results: Results) -> None:
    axes.set_title("learning rate by the published scaling rule")
    for optimizer in study.optimizers:
        rule = "square root" if optimizer == "lars" else "linear"
        _over_batches(
            axes,
            study,
            results,
            optimizer,
            trials.rule,
            label=f"{_LABELS[optimizer]}, {rule}",
        )
    if "sgd" not in study.optimizers:
        return
    for i, epochs in enumerate(study.longer_warmup_epochs):
        _over_batches(
            axes,
            study,
            results,
            "sgd",
            functools.partial(trials.longer_warmup, epochs=epochs),
            batches=study.longer_warmup_batch_sizes,
            shift=0.97 ** (i + 1),
            label=f"SGD, linear, warm-up of {epochs:g} epochs instead of {study.warmup_epochs:g}",
            linestyle=(":", "--", "-.")[i % 3],
            marker="^v<"[i % 3],
            mfc="white",
        )


def _draw_best(axes, study: Study, results: Results) -> None:
    axes.set_title("best learning rate of the grid, chosen on held-out training images")
    for optimizer in study.optimizers:
        chosen = [
            trials.chosen_rate(study, results, optimizer, batch)
            for batch in sorted(study.batch_sizes)
        ]
        rates = ", ".join(f"{rate:g}" for rate in chosen if rate is not None)
        _over_batches(
            axes,
            study,
            results,
            optimizer,
            trials.chosen,
            label=f"{_LABELS[optimizer]}, rates {rates}",
        )


def _draw_rates(axes, study: Study, results: Results) -> None:
    batch = study.main_batch_size
    axes.set_title(f"every learning rate at batch {batch:,}")
    for optimizer in study.optimizers:
        found = result_table.over_rates(study, results, optimizer, batch)
        if not found:
            continue
        low, high = result_table.plateau(found)
        width = f"{low:g} to {high:g}" if high > low else f"{low:g} alone"
        _bars(
            axes,
            list(found),
            list(found.values()),
            color=_COLOURS[optimizer],
            marker="o",
            ms=4,
            label=f"{_LABELS[optimizer]}, within a point of its best: {width}",
        )
        if high > low:
            axes.axvspan(low, high, color=_COLOURS[optimizer], alpha=0.08, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate at the end of the warm-up")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_augmentation(axes, study: Study, results: Results) -> None:
    names = {"none": "no augmentation", "reference": "random box and flip"}
    ours, other = study.augmentation, study.other_augmentation
    axes.set_title("with and without augmentation, rates of the panel above")
    for optimizer in study.optimizers:
        label = f"{_LABELS[optimizer]}, {names.get(ours, ours)}"
        _over_batches(axes, study, results, optimizer, trials.chosen, label=label)
        if other is not None:
            _over_batches(
                axes,
                study,
                results,
                optimizer,
                trials.with_other_augmentation,
                label=f"{_LABELS[optimizer]}, {names.get(other, other)}",
                linestyle="--",
                mfc="white",
            )


def _over_batches(
    axes,
    study: Study,
    results: Results,
    optimizer: str,
    trials: Callable[[Study, str, int, Sequence[int]], list[Trial]],
    *,
    batches: Sequence[int] | None = None,
    shift: float = 1.0,
    **style: Any,
) -> None:
    """Plots accuracy against the batch, for the batches that have run."""
    found = {}
    for batch in sorted(study.batch_sizes if batches is None else batches):
        seeds = study.seeds_of(batch)
        one = result_table.accuracy(study, results, trials(study, optimizer, batch, seeds))
        if one:
            found[batch] = one
    if found:
        style = {"marker": "o", "ms": 5} | style
        _bars(
            axes,
            [batch * shift * _SHIFTS[optimizer] for batch in found],
            list(found.values()),
            color=_COLOURS[optimizer],
            **style,
        )


def _bars(axes, xs, accuracies, **style) -> None:
    means = [one.mean for one in accuracies]
    below = [one.mean - one.low for one in accuracies]
    above = [one.high - one.mean for one in accuracies]
    axes.errorbar(xs, means, yerr=[below, above], capsize=2, lw=1.4, elinewidth=1, **style)


def _draw_baseline(axes, study: Study, results: Results) -> None:
    found = result_table.baseline_accuracy(study, results)
    if not found:
        return
    # Keeps the band of a single seed visible.
    low, high = min(found.low, found.mean - 0.001), max(found.high, found.mean + 0.001)
    axes.axhspan(
        low,
        high,
        color="grey",
        alpha=0.35,
        linewidth=0,
        label=f"baseline: SGD at batch {study.baseline_batch_size:,}, {len(found.values)} "
        f"seed{'s'[: len(found.values) > 1]}, {found.mean:.1%}",
    )

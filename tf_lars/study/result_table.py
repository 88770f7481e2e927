"""Summarizes the results of a study: accuracies, differences, times to a target, plateaus."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from tf_lars.study.paired_differences import paired
from tf_lars.study.search_space import Point
from tf_lars.study.trials import (
    Cell,
    Result,
    Results,
    Study,
    Trial,
    by_augmentation,
    chosen,
    chosen_point,
    linear_rule,
    resolve,
    tuning,
)

NAMES = {
    "lars": "LARS",
    "sgd": "SGD",
    "nesterov": "Nesterov",
    "lamb": "LAMB",
    "adamw": "AdamW",
    "muon": "Muon",
}
"""Optimizers as they are written."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      title: What it shows.
      header: Names of its columns.
      rows: Its lines.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        aligned = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *aligned])


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Test accuracy over seeds.

    Attributes:
      of_seed: Accuracy of each seed, from 0 to 1.
    """

    of_seed: Mapping[int, float]

    @property
    def values(self) -> tuple[float, ...]:
        """Accuracies in the order of the seeds."""
        return tuple(self.of_seed.values())

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    def __str__(self) -> str:
        mean, low, high = (
            f"{100 * x:.1f}" for x in (self.mean, min(self.values), max(self.values))
        )
        return f"{mean} ({low} to {high})" if len(self.values) > 1 else mean


def done(study: Study, results: Results, trials: Sequence[Trial]) -> list[Result]:
    """Returns the results of those trials that have run."""
    found = [resolve(study, results, trial) for trial in trials]
    return [results[trial] for trial in found if trial and trial in results]


def accuracy(study: Study, results: Results, trials: Sequence[Trial]) -> Accuracy | None:
    """Returns the test accuracy over the trials that have run; None if there are none."""
    found = {r.trial.seed: r.test_top1 for r in done(study, results, trials)}
    return Accuracy(found) if found else None


def baseline_accuracy(study: Study, results: Results) -> Accuracy | None:
    """Returns the accuracy of SGD at the small batch."""
    return accuracy(study, results, chosen(study, study.baseline))


@dataclasses.dataclass(frozen=True)
class ToTarget:
    """Epochs and steps after which seeds first reached a target.

    Attributes:
      epochs: Those of each seed that reached it.
      steps: Likewise.
      seeds: Number of seeds, whether they reached it or not.
    """

    epochs: tuple[int, ...]
    steps: tuple[int, ...]
    seeds: int

    @property
    def is_reached(self) -> bool:
        """Whether all seeds reached the target."""
        return len(self.epochs) == self.seeds

    def texts(self) -> tuple[str, str]:
        """Returns the medians of steps and epochs in words."""
        if not self.is_reached:
            missed = f"{self.seeds - len(self.epochs)} of {self.seeds} seeds never"
            return missed, missed
        return tuple(f"{statistics.median(one):,g}" for one in (self.steps, self.epochs))  # type: ignore[return-value]


def to_target(study: Study, results: Results, cell: Cell, target: float) -> ToTarget | None:
    """Returns what the trials at the chosen point needed; None if none have run."""
    found = done(study, results, chosen(study, cell))
    if not found:
        return None
    pairs = [(r.epochs_to(target), r) for r in found]
    reached = [(epochs, r) for epochs, r in pairs if epochs is not None]
    return ToTarget(
        tuple(epochs for epochs, _ in reached),
        tuple(round(r.steps * epochs / r.trial.epochs) for epochs, r in reached),
        len(found),
    )


def accuracies_by_augmentation(
    study: Study, results: Results
) -> dict[Cell, tuple[Accuracy, Accuracy]]:
    """Returns the accuracy with the study's augmentation and the other one, where both have run."""
    found = {}
    for cell in dict.fromkeys([study.baseline, *study.cells]):
        same, other = (accuracy(study, results, of_one) for of_one in by_augmentation(study, cell))
        if same and other:
            found[cell] = (same, other)
    return found


def over_rates(study: Study, results: Results, cell: Cell) -> dict[float, Accuracy]:
    """Returns the accuracy of each point of a cell's tuning that has run, by its learning rate."""
    found: dict[float, dict[int, float]] = {}
    for result in done(study, results, tuning(study, cell)):
        assert result.trial.point
        of_rate = found.setdefault(result.trial.point.learning_rate, {})
        of_rate[result.trial.seed] = result.test_top1
    return {rate: Accuracy(found[rate]) for rate in sorted(found)}


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Learning rates around the best one with an accuracy close to its.

    Attributes:
      low: Lowest rate, interpolated between the rates that were tried.
      high: Highest rate, likewise.
      is_open: Whether it ends where the rates that were tried end.
    """

    low: float
    high: float
    is_open: bool

    @property
    def decades(self) -> float:
        """Width in powers of ten."""
        return math.log10(self.high / self.low)

    def __str__(self) -> str:
        least = "at least " if self.is_open else ""
        return f"{least}{self.decades:.2f} decades, {self.low:.3g} to {self.high:.3g}"


def plateau(accuracies: Mapping[float, float], points: float) -> Plateau:
    """Returns the plateau around the best rate.

    Args:
      accuracies: Accuracy at each rate, from 0 to 1.
      points: Largest distance from the best accuracy, in percentage points.
    """
    rates = sorted(accuracies)
    best = max(rates, key=lambda rate: accuracies[rate])
    enough = accuracies[best] - points / 100 - 1e-9
    above = [rate for rate in rates if rate >= best]
    below = [rate for rate in reversed(rates) if rate <= best]
    (high, open_above), (low, open_below) = (
        _end(side, accuracies, enough) for side in (above, below)
    )
    return Plateau(low, high, open_above or open_below)


def _end(
    side: Sequence[float], accuracies: Mapping[float, float], enough: float
) -> tuple[float, bool]:
    """Returns the rate at which accuracy falls below `enough`, and whether it does not."""
    for near, far in itertools.pairwise(side):
        if accuracies[far] < enough:
            share = (accuracies[near] - enough) / (accuracies[near] - accuracies[far])
            return near * (far / near) ** share, False
    return side[-1], True


def tables(study: Study, results: Results, target_points: float) -> list[Table]:
    """Returns what a study found.

    Args:
      study: The study.
      results: Results of the trials that have run.
      target_points: Percentage points below the baseline's mean accuracy that count as reaching it.
    """
    found = [_accuracies(study, results, target_points), _rates(study, results)]
    if study.other_augmentation:
        found.append(_augmentations(study, results))
    return [one for one in found if one.rows]


def _accuracies(study: Study, results: Results, target_points: float) -> Table:
    small = baseline_accuracy(study, results)
    target = small.mean - target_points / 100 if small else math.inf
    cells = [cell for cell in _ascending(study.cells) if cell != study.baseline]
    rows = [
        _row(study, results, cell, target)
        for cell in (study.baseline, *cells, *study.equal_steps_cells)
    ]
    goal = f"; the target is {100 * target:.1f} %" if small else ""
    return Table(
        f"Test accuracy in %, mean (worst to best seed){goal}",
        (
            "batch",
            "epochs",
            "optimizer",
            "hyperparameters",
            "accuracy",
            "seeds",
            "LARS minus it, paired by seed",
            "steps to target",
            "epochs to target",
        ),
        tuple(row for row in rows if row),
    )


def _ascending(cells: Sequence[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: cell.global_batch_size)


def _row(study: Study, results: Results, cell: Cell, target: float) -> tuple[str, ...] | None:
    one = accuracy(study, results, chosen(study, cell))
    point, needed = chosen_point(study, results, cell), to_target(study, results, cell, target)
    if not (one and point and needed):
        return None
    ours = accuracy(study, results, chosen(study, dataclasses.replace(cell, optimizer="lars")))
    difference = ""
    if ours and cell.optimizer != "lars":
        difference = str(paired(ours.of_seed, one.of_seed) or "")
    return (
        f"{cell.global_batch_size:,}",
        f"{cell.epochs:,}",
        NAMES[cell.optimizer],
        _in_words(study, point),
        str(one),
        f"{len(one.values)}",
        difference,
        *needed.texts(),
    )


def _in_words(study: Study, point: Point) -> str:
    words = {"learning_rate": "rate", "momentum": "momentum", "weight_decay": "decay"}
    tuned = [name for name in words if name in study.tune]
    return ", ".join(f"{words[name]} {getattr(point, name):g}" for name in tuned)


def _rates(study: Study, results: Results) -> Table:
    rows = []
    for cell in _ascending(study.cells) if study.tune == ("learning_rate",) else ():
        found = over_rates(study, results, cell)
        if len(found) < study.tuning_trials:
            continue
        means = {rate: one.mean for rate, one in found.items()}
        rule = linear_rule(study, results, cell.global_batch_size)
        is_ruled = cell.optimizer in ("sgd", "nesterov") and rule
        rows.append(
            (
                f"{cell.global_batch_size:,}",
                NAMES[cell.optimizer],
                f"{100 * max(means.values()):.1f}",
                *(str(plateau(means, points)) for points in (1, 5)),
                f"{rule:.3g}" if is_ruled else "",
            )
        )
    header = ("batch", "optimizer", "best", "within 1 point", "within 5 points", "linear rule")
    return Table(
        "Learning rates close to the best of the tuning, by test accuracy", header, tuple(rows)
    )


def _augmentations(study: Study, results: Results) -> Table:
    rows = [
        (
            f"{cell.global_batch_size:,}",
            NAMES[cell.optimizer],
            str(same),
            str(other),
            str(paired(other.of_seed, same.of_seed)),
        )
        for cell, (same, other) in accuracies_by_augmentation(study, results).items()
    ]
    return Table(
        f"Test accuracy in % by augmentation, after {study.augmentation_epochs} "
        "epochs, at the same hyperparameters",
        ("batch", "optimizer", study.augmentation, study.other_augmentation, "difference"),
        tuple(rows),
    )

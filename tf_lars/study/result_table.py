"""Summarizes the results of a study: accuracies on the test set, and widths of plateaus."""

import dataclasses
from collections.abc import Sequence

from tf_lars.study.trials import (
    Results,
    Study,
    Trial,
    baseline,
    chosen,
    chosen_rate,
    longer_warmup,
    resolve,
    rounded,
    rule,
)

PLATEAU_POINTS = 0.01
"""Largest distance from the best accuracy within the plateau: one percentage point."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Test accuracy over seeds.

    Attributes:
      values: Accuracy of each seed, from 0 to 1.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def low(self) -> float:
        """Accuracy of the worst seed."""
        return min(self.values)

    @property
    def high(self) -> float:
        """Accuracy of the best seed."""
        return max(self.values)

    def __str__(self) -> str:
        spread = f" ({self.low:.1%} to {self.high:.1%})" if len(self.values) > 1 else ""
        return f"{self.mean:.1%}{spread}, {len(self.values)} seed{'s'[: len(self.values) > 1]}"


def accuracy(study: Study, results: Results, trials: Sequence[Trial]) -> Accuracy | None:
    """Returns the test accuracy over the trials that have run; None if there are none."""
    found = [resolve(study, results, trial) for trial in trials]
    values = tuple(results[trial].test_top1 for trial in found if trial and trial in results)
    return Accuracy(values) if values else None


def baseline_accuracy(study: Study, results: Results) -> Accuracy | None:
    """Returns the accuracy of SGD at the small batch."""
    return accuracy(study, results, baseline(study, study.seeds))


def over_rates(study: Study, results: Results, optimizer: str, batch: int) -> dict[float, Accuracy]:
    """Returns the accuracy at each rate that has run with a batch, including the rule's rate.

    Only the first `few_seeds` seeds count, so that all rates are compared over the same seeds.
    """
    rates = [*study.learning_rates(optimizer), study.rule_learning_rate(optimizer, batch)]
    found = {}
    for rate in sorted({rounded(rate) for rate in rates}):
        few = study.seeds[: study.few_seeds]
        trials = [study.trial(optimizer, batch, rate, seed) for seed in few]
        one = accuracy(study, results, trials)
        if one:
            found[rate] = one
    return found


def plateau(accuracies: dict[float, Accuracy]) -> tuple[float, float]:
    """Returns the lowest and the highest rate of the plateau around the best rate.

    On the plateau, every rate has a mean accuracy within `PLATEAU_POINTS` of the best.
    """
    rates = sorted(accuracies)
    best = max(range(len(rates)), key=lambda i: accuracies[rates[i]].mean)
    enough = accuracies[rates[best]].mean - PLATEAU_POINTS
    low = high = best
    while low > 0 and accuracies[rates[low - 1]].mean >= enough:
        low -= 1
    while high < len(rates) - 1 and accuracies[rates[high + 1]].mean >= enough:
        high += 1
    return rates[low], rates[high]


def table(study: Study, results: Results) -> str:
    """Returns the study as text: for each batch, the scaling rule and the best of the grid."""
    small = baseline_accuracy(study, results)
    lines = [
        f"baseline: sgd, batch {study.baseline_batch_size:,}, rate "
        f"{study.baseline_learning_rate:g}: {small or 'not run'}"
    ]
    rows = [("batch", "optimizer", "rule", "", "best of the grid", "")]
    for batch in study.batch_sizes:
        for optimizer in study.optimizers:
            by_rule = accuracy(study, results, rule(study, optimizer, batch, study.seeds_of(batch)))
            best = accuracy(study, results, chosen(study, optimizer, batch, study.seeds_of(batch)))
            rate = chosen_rate(study, results, optimizer, batch)
            rows.append(
                (
                    f"{batch:,}",
                    optimizer,
                    f"{study.rule_learning_rate(optimizer, batch):g}",
                    str(by_rule or "not run"),
                    "" if rate is None else f"{rate:g}",
                    str(best or "not run"),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if "sgd" in study.optimizers:
        for batch in study.longer_warmup_batch_sizes:
            for epochs in study.longer_warmup_epochs:
                trials = longer_warmup(study, "sgd", batch, study.seeds_of(batch), epochs=epochs)
                lines.append(
                    f"sgd, batch {batch:,}, rate {trials[0].learning_rate:g}, {epochs:g} epochs "
                    f"of warm-up: {accuracy(study, results, trials) or 'not run'}"
                )
    return "\n".join(lines)

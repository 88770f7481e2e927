"""Which trials a study is made of, in which order, and which rate its grid has chosen.

Everything here is arithmetic on frozen values. The order puts what tells most first, so that a
study that is cut short by its time still has something to show.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tf_lars.data.augmentation_names import AUGMENTATIONS
from tf_lars.defaults import OPTIMIZERS
from tf_lars.errors import require
from tf_lars.scaling import lars_scaling, linear_scaling
from tf_lars.setting import Rule, above, at_least, check, setting


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run: what is varied in a study.

    Attributes:
      optimizer: one of `tf_lars.defaults.OPTIMIZERS`.
      global_batch_size: examples per step.
      learning_rate: at the end of the warm-up; None stands for the one that the grid chooses.
      warmup_epochs: epochs in which the rate rises linearly.
      augmentation: one of `tf_lars.data.augmentation_names.AUGMENTATIONS`.
      seed: of weights, order and augmentation.
    """

    optimizer: str
    global_batch_size: int
    learning_rate: float | None
    warmup_epochs: float
    augmentation: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What a trial has come to.

    Attributes:
      trial: with its learning rate.
      steps: optimizer steps of the run.
      diverged: whether training was ended because the gradients were no longer finite.
      training_loss: mean over the last epoch.
      held_out_top1: accuracy on the examples held out of the training set, from 0 to 1; rates are
        chosen by it.
      held_out_loss: the loss there.
      test_top1: accuracy on the test set, which nothing is chosen by.
      test_loss: the loss there.
      seconds: of the whole trial.
    """

    trial: Trial
    steps: int
    diverged: bool
    training_loss: float
    held_out_top1: float
    held_out_loss: float
    test_top1: float
    test_loss: float
    seconds: float


Results = Mapping[Trial, Result]


TRIALS = "Trials"
"""Heading of these settings in `--help`."""

_SEED = Rule("at least 0 and below 2**32", lambda seed: 0 <= seed < 2**32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What a study compares; each field is the flag of its name.

    Raises:
      InputError: a setting is out of its range.
    """

    batch_sizes: tuple[int, ...] = setting(
        "Global batches to compare.", rule=at_least(1), group=TRIALS
    )
    optimizers: tuple[str, ...] = setting(
        f"Of {', '.join(OPTIMIZERS)}.",
        ("lars", "sgd", "nesterov"),
        rule=Rule(f"of {', '.join(OPTIMIZERS)}", lambda name: name in OPTIMIZERS),
        group=TRIALS,
    )
    sgd_learning_rates: tuple[float, ...] = setting(
        "Grid of learning rates for SGD and Nesterov.", rule=above(0), group=TRIALS
    )
    lars_learning_rates: tuple[float, ...] = setting(
        "Grid of learning rates for LARS.", rule=above(0), group=TRIALS
    )
    seeds: tuple[int, ...] = setting(
        "Seeds of the baseline, and of what is shown at the main batch.", rule=_SEED, group=TRIALS
    )
    few_seeds: int = setting("How many of the seeds everything else uses.", group=TRIALS)
    grid_seeds: int = setting(
        "How many of the seeds choose a learning rate from the grid.", group=TRIALS
    )
    main_batch_size: int = setting(
        "The batch with all seeds, whose accuracy is shown against the learning rate.",
        rule=at_least(1),
        group=TRIALS,
    )
    baseline_batch_size: int = setting(
        "The small batch of the baseline, SGD.", rule=at_least(1), group=TRIALS
    )
    baseline_learning_rate: float = setting(
        "Learning rate of the baseline, from which the linear rule scales.",
        rule=above(0),
        group=TRIALS,
    )
    lars_batch_size: int = setting(
        "The batch of --lars_learning_rate.", rule=at_least(1), group=TRIALS
    )
    lars_learning_rate: float = setting(
        "The learning rate from which LARS's rule, the square root of the batch, scales.",
        rule=above(0),
        group=TRIALS,
    )
    warmup_epochs: float = setting(
        "Epochs over which the learning rate rises linearly.", rule=at_least(0), group=TRIALS
    )
    longer_warmup_epochs: tuple[float, ...] = setting(
        "Longer warm-ups for SGD at the linear rule's learning rate.",
        rule=at_least(0),
        group=TRIALS,
    )
    longer_warmup_batch_sizes: tuple[int, ...] = setting(
        "The batches of --longer_warmup_epochs.", rule=at_least(1), group=TRIALS
    )
    augmentation: str = setting(
        f"Augmentation of all trials: one of {', '.join(AUGMENTATIONS)}.", group=TRIALS
    )
    other_augmentation: str = setting(
        "Augmentation to compare it with, at the learning rates that were chosen without it; "
        "empty: none.",
        group=TRIALS,
    )

    def __post_init__(self):
        check(self)
        for name in ("batch_sizes", "optimizers", "seeds"):
            require(getattr(self, name), f"--{name}", "at least one", getattr(self, name))
        for name in self.optimizers:
            which = "lars_learning_rates" if name == "lars" else "sgd_learning_rates"
            rates = self.learning_rates(name)
            require(rates, f"--{which}", "above 0, and at least one", rates)
        for name, most in (("few_seeds", len(self.seeds)), ("grid_seeds", self.few_seeds)):
            count = getattr(self, name)
            require(1 <= count <= most, f"--{name}", f"from 1 to {most}", count)

    def learning_rates(self, optimizer: str) -> tuple[float, ...]:
        """Returns the grid of an optimizer."""
        return self.lars_learning_rates if optimizer == "lars" else self.sgd_learning_rates

    def seeds_of(self, batch: int) -> tuple[int, ...]:
        """Returns the seeds of what is shown at a batch."""
        return self.seeds if batch == self.main_batch_size else self.seeds[: self.few_seeds]

    def rule_learning_rate(self, optimizer: str, batch: int) -> float:
        """Returns the rate of the published scaling rule, to four digits.

        SGD and Nesterov: linear in the batch (Goyal et al. 2017) from the baseline. LARS: its
        square root up to 16,384 (`tf_lars.scaling.lars_scaling`) from `lars_learning_rate`.
        """
        if optimizer == "lars":
            rate = lars_scaling(self.lars_learning_rate, batch, self.lars_batch_size)
        else:
            rate = linear_scaling(self.baseline_learning_rate, batch, self.baseline_batch_size)
        return rounded(rate)

    def trial(self, optimizer: str, batch: int, rate: float | None, seed: int) -> Trial:
        """Returns a trial with the warm-up and the augmentation of most."""
        rate = None if rate is None else rounded(rate)
        return Trial(optimizer, batch, rate, self.warmup_epochs, self.augmentation, seed)


def rounded(rate: float) -> float:
    """Returns a rate to four significant digits, so that text holds it exactly."""
    return float(f"{rate:.4g}")


def baseline(study: Study, seeds: Sequence[int]) -> list[Trial]:
    """Returns SGD at the small batch."""
    batch, rate = study.baseline_batch_size, study.baseline_learning_rate
    return [study.trial("sgd", batch, rate, seed) for seed in seeds]


def rule(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials at the rate of the published scaling rule."""
    rate = study.rule_learning_rate(optimizer, batch)
    return [study.trial(optimizer, batch, rate, seed) for seed in seeds]


def grid(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials of the grid of one optimizer and batch."""
    rates = study.learning_rates(optimizer)
    return [study.trial(optimizer, batch, rate, seed) for rate in rates for seed in seeds]


def chosen(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials at the rate that the grid chooses; it is None until `resolve`."""
    return [study.trial(optimizer, batch, None, seed) for seed in seeds]


def longer_warmup(
    study: Study, optimizer: str, batch: int, seeds: Sequence[int], *, epochs: float
) -> list[Trial]:
    """Returns the trials at the rate of the scaling rule with a longer warm-up."""
    return [
        dataclasses.replace(trial, warmup_epochs=epochs)
        for trial in rule(study, optimizer, batch, seeds)
    ]


def with_other_augmentation(
    study: Study, optimizer: str, batch: int, seeds: Sequence[int]
) -> list[Trial]:
    """Returns the chosen trials with the other augmentation."""
    if not study.other_augmentation:
        return []
    return [
        dataclasses.replace(trial, augmentation=study.other_augmentation)
        for trial in chosen(study, optimizer, batch, seeds)
    ]


def trials(study: Study) -> list[Trial]:
    """Returns all trials of a study, what tells most first.

    The baseline and the rule with one seed; the main batch's grid and what it chose, with all
    seeds; the other grids and what they chose; the baseline; longer warm-ups; the rule with the
    other seeds; the other augmentation. Larger batches come before smaller ones. A trial may be in
    the list twice where its rate is not known yet.
    """
    first, few = study.seeds[:1], study.seeds[: study.few_seeds]
    batches = sorted(study.batch_sizes, reverse=True)
    cells = [(optimizer, batch) for batch in batches for optimizer in study.optimizers]

    def by_seed(make: Callable[..., list[Trial]], some: Sequence[tuple[str, int]]) -> list[Trial]:
        return [
            trial
            for seed in study.seeds
            for optimizer, batch in some
            if seed in study.seeds_of(batch)
            for trial in make(study, optimizer, batch, [seed])
        ]

    listed = baseline(study, first)
    listed += [t for cell in cells for t in rule(study, *cell, first)]
    main = [cell for cell in cells if cell[1] == study.main_batch_size]
    for some in (main, [cell for cell in cells if cell not in main]):
        listed += [t for cell in some for t in grid(study, *cell, study.seeds[: study.grid_seeds])]
        listed += by_seed(chosen, some)
    listed += baseline(study, study.seeds)
    if "sgd" in study.optimizers:
        listed += [
            t
            for seed in study.seeds
            for batch in sorted(study.longer_warmup_batch_sizes, reverse=True)
            if seed in study.seeds_of(batch)
            for epochs in study.longer_warmup_epochs
            for t in longer_warmup(study, "sgd", batch, [seed], epochs=epochs)
        ]
    listed += by_seed(rule, cells)
    listed += [t for cell in cells for t in with_other_augmentation(study, *cell, few)]
    return list(dict.fromkeys(listed))


def chosen_rate(study: Study, results: Results, optimizer: str, batch: int) -> float | None:
    """Returns the rate of the grid with the best mean accuracy on the held-out examples.

    Where two are equal, the one with the lower mean loss there. The test set has no say. Only the
    first `grid_seeds` seeds count, which every rate of the grid has. None until all have run.
    """
    scores = {}
    for rate in study.learning_rates(optimizer):
        of_rate = [
            results.get(study.trial(optimizer, batch, rate, seed))
            for seed in study.seeds[: study.grid_seeds]
        ]
        done = [result for result in of_rate if result]
        if len(done) < len(of_rate):
            return None
        accuracy = sum(result.held_out_top1 for result in done) / len(done)
        loss = sum(result.held_out_loss for result in done) / len(done)
        # A loss that is no number is the worst.
        scores[rounded(rate)] = (accuracy, -loss if loss == loss else -float("inf"))
    return max(scores, key=lambda rate: scores[rate])


def resolve(study: Study, results: Results, trial: Trial) -> Trial | None:
    """Returns a trial with the rate that the grid has chosen, or None while it has not."""
    if trial.learning_rate is not None:
        return trial
    rate = chosen_rate(study, results, trial.optimizer, trial.global_batch_size)
    return None if rate is None else dataclasses.replace(trial, learning_rate=rate)


def remaining(study: Study, results: Results) -> list[Trial]:
    """Returns the trials that are still to be run, in order; unknown rates are None."""
    listed = [resolve(study, results, trial) or trial for trial in trials(study)]
    return [trial for trial in dict.fromkeys(listed) if trial not in results]

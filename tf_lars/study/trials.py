"""The trials of a study, their order, and the learning rates that its grids choose.

The most informative trials run first, so that a study that runs out of time still has results to
show. All functions are pure.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tf_lars.data.augmentation_names import AUGMENTATIONS
from tf_lars.defaults import OPTIMIZERS
from tf_lars.errors import require
from tf_lars.scaling import lars_scaling, linear_scaling
from tf_lars.setting import (
    MOST_EPOCHS,
    Rule,
    batch_size,
    check,
    one_of,
    positive_rate,
    seed,
    setting,
    within,
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run, with the settings that vary within a study.

    Attributes:
      optimizer: One of `tf_lars.defaults.OPTIMIZERS`.
      global_batch_size: Examples per step.
      learning_rate: Learning rate at the end of the warm-up; None for the one that the grid
        chooses.
      warmup_epochs: Epochs over which the rate rises linearly.
      augmentation: One of `tf_lars.data.augmentation_names.AUGMENTATIONS`.
      seed: Seed of weights, order and augmentation.
    """

    optimizer: str
    global_batch_size: int
    learning_rate: float | None
    warmup_epochs: float
    augmentation: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
      trial: The trial, with its learning rate.
      steps: Optimizer steps of the run.
      diverged: Whether training ended early because gradients were no longer finite.
      training_loss: Mean loss over the last epoch.
      held_out_top1: Accuracy on the held-out examples of the training set, from 0 to 1; it chooses
        the learning rates.
      held_out_loss: Loss on the held-out examples.
      test_top1: Accuracy on the test set; it does not influence any choice.
      test_loss: Loss on the test set.
      seconds: Duration of the trial, including evaluation.
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
"""Group of the settings of `Study` in `--help`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The comparison that a study makes; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    batch_sizes: tuple[int, ...] = setting(
        "Global batches to compare.", rule=batch_size(), group=TRIALS
    )
    optimizers: tuple[str, ...] = setting(
        f"Optimizers to compare, of {', '.join(OPTIMIZERS)}.",
        ("lars", "sgd", "nesterov"),
        rule=Rule(f"of {', '.join(OPTIMIZERS)}", lambda name: name in OPTIMIZERS),
        group=TRIALS,
    )
    sgd_learning_rates: tuple[float, ...] = setting(
        "Grid of learning rates for SGD and Nesterov.", rule=positive_rate(), group=TRIALS
    )
    lars_learning_rates: tuple[float, ...] = setting(
        "Grid of learning rates for LARS.", rule=positive_rate(), group=TRIALS
    )
    seeds: tuple[int, ...] = setting(
        "Seeds of the baseline and of the results at the main batch.", rule=seed(), group=TRIALS
    )
    few_seeds: int = setting(
        "Number of --seeds, counted from the first, for all other results.",
        rule=within(1, 1_000_000),
        group=TRIALS,
    )
    grid_seeds: int = setting(
        "Number of --seeds, counted from the first, that choose a learning rate from the grid.",
        rule=within(1, 1_000_000),
        group=TRIALS,
    )
    main_batch_size: int = setting(
        "Batch with all seeds, whose accuracy is shown against the learning rate.",
        rule=batch_size(),
        group=TRIALS,
    )
    baseline_batch_size: int = setting(
        "Small batch of the baseline, SGD.", rule=batch_size(), group=TRIALS
    )
    baseline_learning_rate: float = setting(
        "Learning rate of the baseline, from which the linear rule scales.",
        rule=positive_rate(),
        group=TRIALS,
    )
    lars_batch_size: int = setting(
        "Batch of --lars_learning_rate.", rule=batch_size(), group=TRIALS
    )
    lars_learning_rate: float = setting(
        "Learning rate from which the rule of LARS, the square root of the batch, scales.",
        rule=positive_rate(),
        group=TRIALS,
    )
    warmup_epochs: float = setting(
        "Epochs over which the learning rate rises linearly.",
        rule=within(0, MOST_EPOCHS),
        group=TRIALS,
    )
    longer_warmup_epochs: tuple[float, ...] = setting(
        "Longer warm-ups for SGD at the linear rule's learning rate.",
        rule=within(0, MOST_EPOCHS),
        group=TRIALS,
    )
    longer_warmup_batch_sizes: tuple[int, ...] = setting(
        "Batches of --longer_warmup_epochs.", rule=batch_size(), group=TRIALS
    )
    augmentation: str = setting(
        f"Augmentation of all trials: one of {', '.join(AUGMENTATIONS)}.",
        rule=one_of(*AUGMENTATIONS),
        group=TRIALS,
    )
    other_augmentation: str = setting(
        "Augmentation to compare --augmentation with, at the learning rates chosen for the "
        "latter; empty for none.",
        rule=Rule(
            f"empty or one of {', '.join(AUGMENTATIONS)}", lambda name: name in ("", *AUGMENTATIONS)
        ),
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
        """Returns the grid of learning rates of an optimizer."""
        return self.lars_learning_rates if optimizer == "lars" else self.sgd_learning_rates

    def seeds_of(self, batch: int) -> tuple[int, ...]:
        """Returns the seeds of the results at a batch."""
        return self.seeds if batch == self.main_batch_size else self.seeds[: self.few_seeds]

    def rule_learning_rate(self, optimizer: str, batch: int) -> float:
        """Returns the rate of the published scaling rule, to four digits.

        SGD and Nesterov scale the baseline linearly with the batch (Goyal et al. 2017). LARS scales
        `lars_learning_rate` with its square root, up to a batch of 16,384
        (`tf_lars.scaling.lars_scaling`).
        """
        if optimizer == "lars":
            rate = lars_scaling(self.lars_learning_rate, batch, self.lars_batch_size)
        else:
            rate = linear_scaling(self.baseline_learning_rate, batch, self.baseline_batch_size)
        return rounded(rate)

    def trial(self, optimizer: str, batch: int, rate: float | None, seed: int) -> Trial:
        """Returns a trial with the study's default warm-up and augmentation."""
        rate = None if rate is None else rounded(rate)
        return Trial(optimizer, batch, rate, self.warmup_epochs, self.augmentation, seed)


def rounded(rate: float) -> float:
    """Returns a rate to four significant digits, which survives a round trip through text."""
    return float(f"{rate:.4g}")


def baseline(study: Study, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials of SGD at the small batch."""
    batch, rate = study.baseline_batch_size, study.baseline_learning_rate
    return [study.trial("sgd", batch, rate, seed) for seed in seeds]


def rule(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials at the rate of the published scaling rule."""
    rate = study.rule_learning_rate(optimizer, batch)
    return [study.trial(optimizer, batch, rate, seed) for seed in seeds]


def grid(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials of the grid for an optimizer and a batch."""
    rates = study.learning_rates(optimizer)
    return [study.trial(optimizer, batch, rate, seed) for rate in rates for seed in seeds]


def chosen(study: Study, optimizer: str, batch: int, seeds: Sequence[int]) -> list[Trial]:
    """Returns the trials at the rate that the grid chooses, which is None until `resolve`."""
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
    """Returns the trials of `chosen` with the other augmentation."""
    if not study.other_augmentation:
        return []
    return [
        dataclasses.replace(trial, augmentation=study.other_augmentation)
        for trial in chosen(study, optimizer, batch, seeds)
    ]


def trials(study: Study) -> list[Trial]:
    """Returns all trials of a study, the most informative first.

    The order is: baseline and rule with one seed; the main batch's grid and its choice with all
    seeds; the other grids and their choices; the baseline with all seeds; longer warm-ups; the rule
    with the other seeds; the other augmentation. Larger batches precede smaller ones. A trial may
    be listed twice while its rate is unknown.
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

    Ties go to the lower mean loss on these examples. The test set has no influence. Only the first
    `grid_seeds` seeds count, so that all rates have the same seeds. None until all of them have
    run.
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
        # NaN counts as the highest loss.
        scores[rounded(rate)] = (accuracy, -loss if loss == loss else -float("inf"))
    return max(scores, key=lambda rate: scores[rate])


def resolve(study: Study, results: Results, trial: Trial) -> Trial | None:
    """Returns a trial with the rate that the grid has chosen, or None before that."""
    if trial.learning_rate is not None:
        return trial
    rate = chosen_rate(study, results, trial.optimizer, trial.global_batch_size)
    return None if rate is None else dataclasses.replace(trial, learning_rate=rate)


def remaining(study: Study, results: Results) -> list[Trial]:
    """Returns the trials that have not run yet, in order; unknown rates are None."""
    listed = [resolve(study, results, trial) or trial for trial in trials(study)]
    return [trial for trial in dict.fromkeys(listed) if trial not in results]

"""The trials of a study, their order, and the hyperparameters that its tuning chooses.

A cell is what gets tuned: an optimizer with a batch and a number of epochs. Every cell, the
small-batch baseline included, gets the same number of tuning trials (`tf_lars.study.search_space`).

The most informative trials run first, so that a study that runs out of time still has results to
show. All functions are pure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from tf_lars import setting as table
from tf_lars.data.augmentation_names import AUGMENTATIONS
from tf_lars.defaults import STUDY_OPTIMIZERS
from tf_lars.errors import require
from tf_lars.scaling import linear_scaling
from tf_lars.setting import (
    MOST_EPOCHS,
    Rule,
    batch_size,
    below_one,
    check,
    one_of,
    seed,
    setting,
    within,
)
from tf_lars.study import search_space
from tf_lars.study.search_space import TUNABLE, Point, rounded


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run, with the settings that vary within a study.

    Attributes:
      optimizer: One of `tf_lars.defaults.STUDY_OPTIMIZERS`.
      global_batch_size: Examples per step.
      epochs: Passes over the training data.
      warmup_epochs: Epochs over which the rate rises linearly.
      augmentation: One of `tf_lars.data.augmentation_names.AUGMENTATIONS`.
      seed: Seed of weights, order and augmentation.
      point: Hyperparameters; None for those that tuning chooses.
    """

    optimizer: str
    global_batch_size: int
    epochs: int
    warmup_epochs: float
    augmentation: str
    seed: int
    point: Point | None


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
      trial: The trial, with its hyperparameters.
      steps: Optimizer steps of the run.
      diverged: Whether training ended early because gradients were no longer finite.
      training_loss: Mean loss over the last epoch.
      held_out_top1: Accuracy on the held-out examples of the training set, from 0 to 1; it chooses
        the hyperparameters.
      held_out_loss: Loss on the held-out examples.
      test_top1: Accuracy on the test set; it does not influence any choice.
      test_loss: Loss on the test set.
      seconds: Duration of the trial, including evaluation.
      curve: Pairs of a number of epochs and the test accuracy after it.
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
    curve: tuple[tuple[int, float], ...]

    def epochs_to(self, target: float) -> int | None:
        """Returns the epochs after which the test accuracy first reached a target, if it did."""
        return next((epochs for epochs, top1 in self.curve if top1 >= target), None)


Results = Mapping[Trial, Result]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is tuned: an optimizer with a batch and a number of epochs."""

    optimizer: str
    global_batch_size: int
    epochs: int


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
        f"Optimizers to compare, of {', '.join(STUDY_OPTIMIZERS)}.",
        ("lars", "sgd", "nesterov"),
        rule=Rule(f"of {', '.join(STUDY_OPTIMIZERS)}", lambda name: name in STUDY_OPTIMIZERS),
        group=TRIALS,
    )
    tuning_trials: int = setting(
        "Hyperparameters to try for every optimizer and batch, the baseline included.",
        8,
        rule=within(1, 1000),
        group=TRIALS,
    )
    tune: tuple[str, ...] = setting(
        f"Hyperparameters to tune, of {', '.join(TUNABLE)}. Accuracy can be drawn against the "
        "learning rate if it alone is tuned.",
        ("learning_rate",),
        rule=Rule(f"of {', '.join(TUNABLE)}", lambda name: name in TUNABLE),
        group=TRIALS,
    )
    learning_rate_ranges: tuple[str, ...] = setting(
        "Other ranges of learning rates than the default ones, as OPTIMIZER:LOWEST:HIGHEST, such "
        "as lars:2.5:40.",
        (),
        group=TRIALS,
    )
    tuning_seed: int = setting(
        "Seed of the quasi-random sequence of hyperparameters.", 0, rule=seed(), group=TRIALS
    )
    tuning_seeds: int = setting(
        "Number of --seeds, counted from the first, with which each point is tried.",
        1,
        rule=within(1, 1_000_000),
        group=TRIALS,
    )
    seeds: tuple[int, ...] = setting(
        "Seeds of the baseline and of the results at the main batch.", rule=seed(), group=TRIALS
    )
    few_seeds: int = setting(
        "Number of --seeds, counted from the first, for all other results.",
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
    epochs: int = setting(
        "Passes over the training data in each trial.", rule=table.epochs(), group=TRIALS
    )
    warmup_epochs: float = setting(
        "Epochs over which the learning rate rises linearly.",
        rule=within(0, MOST_EPOCHS),
        group=TRIALS,
    )
    equal_steps_batch_sizes: tuple[int, ...] = setting(
        "Batches that are trained a second time for as many steps as the baseline takes: epochs "
        "and warm-up grow with the batch. This separates the batch from the lack of steps.",
        (),
        rule=batch_size(),
        group=TRIALS,
    )
    momentum: float = setting(
        "Momentum of all optimizers where it is not tuned.", 0.9, rule=below_one(), group=TRIALS
    )
    weight_decay: float = setting(
        "L2 decay of LARS, SGD and Nesterov where it is not tuned; biases and batch normalisation "
        "are excluded.",
        5e-4,
        rule=within(0, 1000),
        group=TRIALS,
    )
    decoupled_weight_decay: float = setting(
        "Decoupled weight decay of the other optimizers where it is not tuned; it multiplies the "
        "learning rate.",
        0.02,
        rule=within(0, 1000),
        group=TRIALS,
    )
    augmentation: str = setting(
        f"Augmentation of all trials: one of {', '.join(AUGMENTATIONS)}.",
        rule=one_of(*AUGMENTATIONS),
        group=TRIALS,
    )
    other_augmentation: str = setting(
        "Augmentation to compare --augmentation with, at the baseline's batch and the main one and "
        "with the hyperparameters chosen for --augmentation; empty for none.",
        rule=Rule(
            f"empty or one of {', '.join(AUGMENTATIONS)}", lambda name: name in ("", *AUGMENTATIONS)
        ),
        group=TRIALS,
    )
    augmentation_epochs_factor: float = setting(
        "Epochs and warm-up of the trials that compare the two augmentations, over those of the "
        "others. Augmented examples take more steps to learn.",
        1.0,
        rule=within(1, 100),
        group=TRIALS,
    )

    def __post_init__(self):
        check(self)
        for name in ("batch_sizes", "optimizers", "seeds", "tune"):
            require(getattr(self, name), f"--{name}", "at least one", getattr(self, name))
        require("learning_rate" in self.tune, "--tune", "learning_rate at least", self.tune)
        for name, most in (("few_seeds", len(self.seeds)), ("tuning_seeds", self.few_seeds)):
            count = getattr(self, name)
            require(1 <= count <= most, f"--{name}", f"from 1 to {most}", count)
        search_space.spaces_with(self.learning_rate_ranges)
        least = f"at least the warm-up, {self.warmup_epochs:g}"
        require(self.warmup_epochs <= self.epochs, "--epochs", least, self.epochs)

    @property
    def baseline(self) -> Cell:
        """SGD at the small batch."""
        return Cell("sgd", self.baseline_batch_size, self.epochs)

    @property
    def augmentation_epochs(self) -> int:
        """Epochs of the trials that compare the two augmentations."""
        return round(self.epochs * self.augmentation_epochs_factor)

    @property
    def cells(self) -> list[Cell]:
        """All cells of as many epochs as the baseline, which may be one of them."""
        return [
            Cell(optimizer, batch, self.epochs)
            for batch in sorted(self.batch_sizes, reverse=True)
            for optimizer in self.optimizers
        ]

    @property
    def equal_steps_cells(self) -> list[Cell]:
        """All cells of as many steps as the baseline."""
        return [
            Cell(optimizer, batch, max(1, round(self.epochs * batch / self.baseline_batch_size)))
            for batch in sorted(self.equal_steps_batch_sizes)
            for optimizer in self.optimizers
        ]

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """Returns the seeds of the results of a cell."""
        main = Cell(cell.optimizer, self.main_batch_size, self.epochs)
        return self.seeds if cell in (main, self.baseline) else self.seeds[: self.few_seeds]

    def points(self, optimizer: str) -> tuple[Point, ...]:
        """Returns the hyperparameters to try with an optimizer, at every batch."""
        is_ours = optimizer in ("lars", "sgd", "nesterov")
        decay = self.weight_decay if is_ours else self.decoupled_weight_decay
        return search_space.points(
            search_space.spaces_with(self.learning_rate_ranges)[optimizer],
            Point(0.0, self.momentum, decay),
            self.tune,
            self.tuning_trials,
            self.tuning_seed,
        )

    def trial(self, cell: Cell, point: Point | None, seed: int) -> Trial:
        """Returns a trial of a cell, with the study's augmentation."""
        warmup = rounded(self.warmup_epochs * cell.epochs / self.epochs)
        return Trial(
            cell.optimizer,
            cell.global_batch_size,
            cell.epochs,
            warmup,
            self.augmentation,
            seed,
            point,
        )


def tuning(study: Study, cell: Cell) -> list[Trial]:
    """Returns the trials that tune a cell."""
    seeds = study.seeds[: study.tuning_seeds]
    return [
        study.trial(cell, point, seed) for point in study.points(cell.optimizer) for seed in seeds
    ]


def chosen(study: Study, cell: Cell, seeds: Sequence[int] | None = None) -> list[Trial]:
    """Returns the trials at the point that tuning chooses, which is None until `resolve`.

    Args:
      study: The study.
      cell: The cell.
      seeds: Seeds, by default those of the cell.
    """
    return [study.trial(cell, None, seed) for seed in seeds or study.seeds_of(cell)]


def by_augmentation(study: Study, cell: Cell) -> tuple[list[Trial], list[Trial]]:
    """Returns the trials of a cell with the study's augmentation and with the other one.

    They exist for the baseline and the main batch, with a few seeds and the hyperparameters that
    tuning chooses for the study's augmentation and epochs; without another augmentation both lists
    are empty.
    """
    main = cell.epochs == study.epochs and cell.global_batch_size == study.main_batch_size
    if not study.other_augmentation or not (main or cell == study.baseline):
        return [], []
    longer = dataclasses.replace(cell, epochs=study.augmentation_epochs)
    same = chosen(study, longer, study.seeds[: study.few_seeds])
    other = study.other_augmentation
    return same, [dataclasses.replace(trial, augmentation=other) for trial in same]


def trials(study: Study) -> list[Trial]:
    """Returns all trials of a study, the most informative first.

    The order is: the tuning of the baseline and of the main batch; their choices with all seeds;
    the tuning of the other batches, the largest first, and their choices; the other augmentation;
    the batches with equal steps. A trial may be listed twice while its point is unknown.
    """
    main = [cell for cell in study.cells if cell.global_batch_size == study.main_batch_size]
    others = [cell for cell in study.cells if cell not in (*main, study.baseline)]
    first = [study.baseline, *main]
    listed = _tuned(study, first) + _tuned(study, others)
    by_seed = zip(*(zip(*by_augmentation(study, cell), strict=True) for cell in first), strict=True)
    listed += [trial for cells in by_seed for two in cells for trial in two]
    listed += _tuned(study, study.equal_steps_cells)
    return list(dict.fromkeys(listed))


def _tuned(study: Study, cells: Sequence[Cell]) -> list[Trial]:
    """Returns the tuning of some cells, and the trials at what it chooses, seed by seed."""
    return [trial for cell in cells for trial in tuning(study, cell)] + [
        trial
        for seed in study.seeds
        for cell in cells
        if seed in study.seeds_of(cell)
        for trial in chosen(study, cell, [seed])
    ]


def tuned_cell(study: Study, trial: Trial) -> Cell:
    """Returns the cell whose tuning chooses the hyperparameters of a trial."""
    cell = Cell(trial.optimizer, trial.global_batch_size, trial.epochs)
    if trial.epochs == study.augmentation_epochs and cell not in study.equal_steps_cells:
        return dataclasses.replace(cell, epochs=study.epochs)
    return cell


def chosen_point(study: Study, results: Results, cell: Cell) -> Point | None:
    """Returns the point with the best mean accuracy on the held-out examples.

    Ties go to the lower mean loss on these examples. The test set has no influence. Only the first
    `tuning_seeds` seeds count, so that all points have the same seeds. None until all have run.
    """
    scores = {}
    for point in study.points(cell.optimizer):
        of_point = [
            results.get(study.trial(cell, point, seed))
            for seed in study.seeds[: study.tuning_seeds]
        ]
        done = [result for result in of_point if result]
        if len(done) < len(of_point):
            return None
        accuracy = sum(result.held_out_top1 for result in done) / len(done)
        loss = sum(result.held_out_loss for result in done) / len(done)
        # NaN counts as the highest loss.
        scores[point] = (accuracy, -loss if loss == loss else -float("inf"))
    return max(scores, key=lambda point: scores[point])


def linear_rule(study: Study, results: Results, batch: int) -> float | None:
    """Returns the baseline's chosen rate scaled in proportion to the batch (Goyal et al. 2017)."""
    point = chosen_point(study, results, study.baseline)
    if point is None:
        return None
    return linear_scaling(point.learning_rate, batch, study.baseline_batch_size)


def resolve(study: Study, results: Results, trial: Trial) -> Trial | None:
    """Returns a trial with the point that tuning has chosen, or None before that."""
    if trial.point is not None:
        return trial
    point = chosen_point(study, results, tuned_cell(study, trial))
    return None if point is None else dataclasses.replace(trial, point=point)


def remaining(study: Study, results: Results) -> list[Trial]:
    """Returns the trials that have not run yet, in order; unknown points are None."""
    listed = [resolve(study, results, trial) or trial for trial in trials(study)]
    return [trial for trial in dict.fromkeys(listed) if trial not in results]

"""Published settings by model and batch size, interpolated between them or scaled from a baseline.

Each row of `published.csv` holds the published settings of a model at a batch, with their source.
`resnet50` and `alexnet_bn` return a row where its batch is asked for, interpolate between two
published batches, marked as such, and refuse batches outside the published range. For other models
and data, `from_baseline` scales settings that were tuned at a small batch.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_lars.errors import InputError, require
from tf_lars.packaged_csv import rows
from tf_lars.scaling import lars_scaling, linear_scaling, square_root_scaling

if TYPE_CHECKING:
    from tf_lars.schedules import Warmup

IMAGENET_EXAMPLES = 1_281_167
"""Number of training images of ImageNet with 1,000 classes (ILSVRC 2012)."""

RULES = {"linear": linear_scaling, "square_root": square_root_scaling, "lars": lars_scaling}
"""Rules by which `from_baseline` scales a learning rate with the batch."""

_NUMBERS = (
    "learning_rate",
    "initial_learning_rate",
    "warmup_epochs",
    "decay_power",
    "end_learning_rate",
    "epochs",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "trust_coefficient",
    "epsilon",
    "expected_top1",
    "epochs_to_target",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training run.

    Attributes:
      model: Name of the model.
      optimizer: "lars" or "sgd" (with momentum).
      global_batch_size: Examples per step, on all devices.
      learning_rate: Learning rate at the end of the warm-up.
      initial_learning_rate: Learning rate at step 0.
      warmup_epochs: Epochs over which the rate rises linearly.
      schedule: Name of the decay after the warm-up, as for `tf_lars.schedules.create`.
      decay_power: Power of the polynomial decay; None for other schedules.
      end_learning_rate: Final rate of the polynomial decay; None for other schedules.
      epochs: Length of the schedule including the warm-up, not always a whole number.
      momentum: Momentum of the optimizer.
      weight_decay: L2 weight decay; biases and batch normalisation are excluded.
      label_smoothing: Share of each label that is spread over all classes.
      trust_coefficient: Trust coefficient of LARS; None for SGD.
      epsilon: Epsilon of LARS; None for SGD.
      expected_top1: Validation accuracy of the source; None where no result exists.
      epochs_to_target: Mean epochs after which the source's runs reached that accuracy, before the
        end of the schedule; None where the source trained to the end.
      interpolated: Whether the settings are derived from published ones rather than published.
      source: Source of the settings.
      num_examples: Training examples per epoch.
      batch_norm_group_size: Number of examples that the source normalises together (MLPerf's
        `model_bn_span`); None where it is not published.
    """

    model: str
    optimizer: str
    global_batch_size: int
    learning_rate: float
    initial_learning_rate: float
    warmup_epochs: float
    schedule: str
    decay_power: float | None
    end_learning_rate: float | None
    epochs: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    trust_coefficient: float | None
    epsilon: float | None
    expected_top1: float | None
    epochs_to_target: float | None
    interpolated: bool
    source: str
    num_examples: int = IMAGENET_EXAMPLES
    batch_norm_group_size: int | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole schedule: epochs * N / B, rounded."""
        return round(self.epochs * self.num_examples / self.global_batch_size)

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up: warmup_epochs * N / B, rounded."""
        return round(self.warmup_epochs * self.num_examples / self.global_batch_size)

    def is_for(self, num_examples: int) -> bool:
        """Returns whether a training set is as large as the recipe's, to 1 %."""
        return abs(num_examples / self.num_examples - 1) <= 0.01

    def learning_rate_schedule(self) -> "Warmup":
        """Returns the learning rate schedule for an optimizer; imports TensorFlow."""
        from tf_lars import schedules

        return schedules.create(
            self.schedule,
            peak_learning_rate=self.learning_rate,
            total_steps=self.steps,
            warmup_steps=self.warmup_steps,
            initial_learning_rate=self.initial_learning_rate,
            power=self.decay_power,
            end_learning_rate=self.end_learning_rate,
        )

    def describe(self) -> str:
        """Returns the settings and their source in a few lines of text."""
        decay = f"{self.schedule} decay"
        if self.decay_power is not None:
            decay += f" of power {self.decay_power:g} to {self.end_learning_rate:g}"
        lines = [
            f"recipe      {self.optimizer}, rate {self.learning_rate:.4g} after "
            f"{self.warmup_epochs:.3g} epochs of warm-up, then {decay}",
            f"            {self.epochs:.4g} epochs, momentum {self.momentum:.4g}, weight decay "
            f"{self.weight_decay:.3g}, label smoothing {self.label_smoothing:g}",
            f"            {self.source}",
        ]
        if self.batch_norm_group_size:
            lines.append(
                f"            batch normalisation in groups of {self.batch_norm_group_size:,} "
                "examples, if the devices can form them"
            )
        if self.expected_top1:
            after = f" after {self.epochs_to_target:.3g} epochs" if self.epochs_to_target else ""
            lines.append(f"            expect {self.expected_top1:.1%} top-1{after}")
        return "\n".join(lines)


def resnet50(global_batch_size: int, optimizer: str = "lars") -> Recipe:
    """Returns settings that train ResNet-50 (v1.5) on ImageNet to 75.9 % top-1 (SGD: 76.3 %).

    LARS: MLPerf's reference convergence points of rules 4.0.0, for batches from 1,632 to 67,840.
    Between two points, every number is interpolated linearly in log(batch), except the groups of
    batch normalisation, which are left out. The only point of
    older rules, at 2,048, is returned for exactly its batch. SGD: Goyal et al., whose scaling rule
    gives the rate at every batch from 256 to 8,192.

    Args:
      global_batch_size: Examples per step, on all devices.
      optimizer: "lars" or "sgd".

    Raises:
      InputError: The optimizer is unknown, or nothing is published for the batch.
    """
    return for_model("resnet50", global_batch_size, optimizer)


def alexnet_bn(global_batch_size: int, optimizer: str = "lars") -> Recipe:
    """Returns the settings of AlexNet with batch normalisation for a batch of 32,768 (58.6 %).

    Reference: Intel Caffe, models/intel_optimized_models/multinode/alexnet_bn_32nodes.

    Raises:
      InputError: The batch or the optimizer is another one.
    """
    return for_model("alexnet_bn", global_batch_size, optimizer)


@functools.cache
def published() -> tuple[Recipe, ...]:
    """Returns all published settings, sorted by model, optimizer and batch."""
    return tuple(_parse(row) for row in rows(__package__, "published.csv"))


def for_model(model: str, global_batch_size: int, optimizer: str = "lars") -> Recipe:
    """Returns the settings of any published model; see `resnet50` and `alexnet_bn`.

    Raises:
      InputError: Nothing is published for the model, optimizer or batch.
    """
    models = sorted({recipe.model for recipe in published()})
    if model not in models:
        raise InputError(
            f"Settings are published for {' and '.join(models)} only. Received: {model!r}. Give "
            "a learning rate tuned at a small batch (recipes.from_baseline; "
            "--baseline_learning_rate and --baseline_batch_size)."
        )
    _check_optimizer(optimizer)
    points = [r for r in published() if (r.model, r.optimizer) == (model, optimizer)]
    if not points:
        raise InputError(f"No settings are published for {model} with {optimizer}.")
    batches = [point.global_batch_size for point in points]
    if not batches[0] <= global_batch_size <= batches[-1]:
        span = f"global batches from {batches[0]:,} to {batches[-1]:,}"
        if len(batches) == 1:
            span = f"a global batch of {batches[0]:,}"
        below = model == "resnet50" and optimizer == "lars" and global_batch_size >= 256
        advice = (
            'Use the optimizer "sgd", which has settings from 256 to 8,192'
            if below and global_batch_size < batches[0]
            else "No result shows that the accuracy holds for others; scale your own baseline "
            "(recipes.from_baseline; --baseline_learning_rate and --baseline_batch_size)"
        )
        raise InputError(
            f"Settings of {model} with {optimizer} are published for {span}. "
            f"Received: {global_batch_size:,}. {advice}."
        )
    low = max((p for p in points if p.global_batch_size <= global_batch_size), key=_batch)
    high = min((p for p in points if p.global_batch_size >= global_batch_size), key=_batch)
    if low is high:
        return low
    if low.schedule == "step":  # Goyal et al. publish a scaling rule.
        rate = linear_scaling(low.learning_rate, global_batch_size, low.global_batch_size)
        return dataclasses.replace(
            low,
            global_batch_size=global_batch_size,
            learning_rate=rate,
            interpolated=True,
            source=high.source,
        )
    values: dict[str, Any] = {name: _between(points, name, global_batch_size) for name in _NUMBERS}
    return dataclasses.replace(
        low,
        **values,
        global_batch_size=global_batch_size,
        batch_norm_group_size=None,  # a number between those of two sources is that of neither
        interpolated=True,
        source=f"interpolated in log(batch) between the reference convergence points "
        f"{low.global_batch_size:,} and {high.global_batch_size:,} of MLPerf, rules 4.0.0",
    )


def optimizer_of_recipes(optimizer: str) -> str:
    """Returns the optimizer whose settings serve another one: "lars" for LARS, otherwise "sgd"."""
    return "lars" if optimizer == "lars" else "sgd"


def for_run(
    model: str, global_batch_size: int, optimizer: str, num_examples: int | None = None
) -> Recipe | None:
    """Returns the settings published for a run, or None.

    Args:
      model: Name of the model.
      global_batch_size: Examples per step, on all devices.
      optimizer: Name of any optimizer.
      num_examples: Training examples per epoch; None if they do not matter.
    """
    try:
        recipe = for_model(model, global_batch_size, optimizer_of_recipes(optimizer))
    except InputError:
        return None
    return recipe if num_examples is None or recipe.is_for(num_examples) else None


def from_baseline(
    baseline_learning_rate: float,
    baseline_batch_size: int,
    global_batch_size: int,
    *,
    epochs: float,
    num_examples: int,
    model: str = "",
    optimizer: str = "lars",
    rule: str | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-5,
    label_smoothing: float = 0.0,
) -> Recipe:
    """Scales settings tuned at a small batch to a larger one, for any model and data.

    The rate follows `rule`; epochs, momentum, weight decay and label smoothing are kept. The
    warm-up takes the same share of the epochs as ResNet-50's reference points at the same ratio of
    batch to data: 5 % up to a batch of 1/400 of the data, 28 % at 1/39, 34 % from 1/26. For SGD it
    takes at least the 5 epochs of Goyal et al. This is a starting point, not a result.

    Args:
      baseline_learning_rate: Learning rate tuned at `baseline_batch_size`.
      baseline_batch_size: Batch of the baseline, in examples per step on all devices.
      global_batch_size: Batch to scale to.
      epochs: Passes over the data.
      num_examples: Training examples per epoch.
      model: Name in messages.
      optimizer: "lars" or "sgd".
      rule: "linear", "square_root" or "lars" (the square root up to 16,384, then constant).
        Defaults to "lars" for LARS and "linear" for SGD.
      momentum: Momentum of the baseline.
      weight_decay: Weight decay of the baseline.
      label_smoothing: Label smoothing of the baseline.

    Raises:
      InputError: A number is not above 0, or the rule or optimizer is unknown.
    """
    _check_optimizer(optimizer)
    rule = rule or {"lars": "lars", "sgd": "linear"}[optimizer]
    require(rule in RULES, "The scaling rule", f"one of {', '.join(RULES)}", rule)
    for name, value in (
        ("baseline_learning_rate", baseline_learning_rate),
        ("epochs", epochs),
        ("num_examples", num_examples),
    ):
        require(0 < value < math.inf, f"`{name}`", "above 0", value)
    rate = RULES[rule](baseline_learning_rate, global_batch_size, baseline_batch_size)
    warmup = epochs * _warmup_share(global_batch_size / num_examples)
    if optimizer == "sgd":
        warmup = min(max(warmup, 5.0), epochs / 2)
    return Recipe(
        model=model,
        optimizer=optimizer,
        global_batch_size=global_batch_size,
        learning_rate=rate,
        initial_learning_rate=0.0,
        warmup_epochs=warmup,
        schedule="polynomial",
        decay_power=2.0,
        end_learning_rate=1e-4 if optimizer == "lars" else 0.0,
        epochs=epochs,
        momentum=momentum,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        trust_coefficient=0.001 if optimizer == "lars" else None,
        epsilon=0.0 if optimizer == "lars" else None,
        expected_top1=None,
        epochs_to_target=None,
        interpolated=True,
        source=f"scaled ({rule}) from rate {baseline_learning_rate:g} at batch "
        f"{baseline_batch_size:,}; warm-up by the share of the data in a batch",
        num_examples=num_examples,
    )


def _check_optimizer(optimizer: str) -> None:
    require(optimizer in ("lars", "sgd"), "The optimizer", '"lars" or "sgd"', optimizer)


def _batch(recipe: Recipe) -> int:
    return recipe.global_batch_size


def _between(points: Sequence[Recipe], name: str, batch: float) -> float:
    """Returns a setting, linear in log(batch) between the points and constant outside them."""
    knots = _knots(points, name)
    return float(
        np.interp(
            math.log(batch),
            [math.log(point.global_batch_size) for point in knots],
            [getattr(point, name) for point in knots],
        )
    )


def _knots(points: Sequence[Recipe], name: str) -> list[Recipe]:
    """Returns the points between which a setting is interpolated.

    The point of older rules is an exception: at 2,048 its runs took more epochs, warm-up and weight
    decay than current ones at 1,632 and 3,264. It is left out where a setting would otherwise not
    be monotone.
    """
    knots = []
    for i, point in enumerate(points):
        if "rules 1.0.0" in point.source:
            sides = sorted(getattr(points[j], name) for j in (i - 1, i + 1))
            if not sides[0] <= getattr(point, name) <= sides[1]:
                continue
        knots.append(point)
    return knots


def _warmup_share(share_of_data: float) -> float:
    """Returns the share of the warm-up in the epochs, from the reference points.

    Args:
      share_of_data: Global batch over the number of training examples.
    """
    points = [p for p in published() if (p.model, p.optimizer) == ("resnet50", "lars")]
    batch = share_of_data * IMAGENET_EXAMPLES
    return _between(points, "warmup_epochs", batch) / _between(points, "epochs", batch)


def _parse(row: dict[str, str]) -> Recipe:
    fields: dict[str, Any] = dict(row)
    fields |= {name: float(row[name]) if row[name] else None for name in _NUMBERS}
    fields["global_batch_size"] = int(row["global_batch_size"])
    group = row["batch_norm_group_size"]
    fields["batch_norm_group_size"] = int(group) if group else None
    return Recipe(**fields, interpolated=False)

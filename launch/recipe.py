"""`--recipe=auto`: settings by model, data and batch; a flag that the person gives wins."""

import math

from absl import flags

from launch import input as inputs
from tf_lars import recipes
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import InputError
from tf_lars.recipes import Recipe

CHOICES = ("none", "auto")
_SET = (
    "learning_rate",
    "initial_learning_rate",
    "warmup_epochs",
    "schedule",
    "decay_power",
    "end_learning_rate",
    "epochs",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "trust_coefficient",
)
"""Flags, and attributes of a recipe of the same name."""


def define() -> None:
    """Defines `--recipe`, and the baseline for what is not published."""
    flags.DEFINE_string(
        "recipe",
        "none",
        "auto: choose learning rate, warm-up, schedule, epochs, momentum, weight decay and label "
        "smoothing for the model and the batch, and say so; a flag that is given wins.",
    )
    flags.DEFINE_float(
        "baseline_learning_rate",
        None,
        "For --recipe=auto with a model, data or a batch for which nothing is published: a rate "
        "that is right at --baseline_batch_size.",
    )
    flags.DEFINE_integer(
        "baseline_batch_size", None, "The small global batch of --baseline_learning_rate."
    )


def chosen() -> dict[str, object]:
    """Returns the flags that `--recipe` sets, by name, and prints what it chose and why.

    Raises:
      InputError: nothing is published and no baseline is given, or no usable data.
    """
    if flags.FLAGS.recipe not in CHOICES:
        raise InputError(
            f"--recipe must be {' or '.join(CHOICES)}. Received: {flags.FLAGS.recipe!r}."
        )
    baseline = [flags.FLAGS.baseline_learning_rate, flags.FLAGS.baseline_batch_size]
    if flags.FLAGS.recipe == "none":
        if baseline != [None, None]:
            raise InputError("A baseline is for --recipe=auto. Received: a baseline without it.")
        return {}
    if baseline.count(None) == 1:
        raise InputError(
            "A baseline is --baseline_learning_rate and --baseline_batch_size. Received: one of "
            "them. Give both."
        )
    recipe = _recipe(baseline)
    values = {name: getattr(recipe, name) for name in _SET}
    values["epochs"] = math.ceil(recipe.epochs)  # the Trainer trains whole epochs
    given = [name for name in _SET if flags.FLAGS[name].present]
    values = {n: v for n, v in values.items() if v is not None and n not in given}
    print(describe(recipe))
    for name in given:
        print(f"            but {name} {flags.FLAGS[name].value}, which was given")
    return values


def describe(recipe: Recipe) -> str:
    """Returns what a recipe sets and why, in a few lines."""
    decay = f"{recipe.schedule} decay"
    if recipe.decay_power is not None:
        decay += f" of power {recipe.decay_power:g} to {recipe.end_learning_rate:g}"
    lines = [
        f"recipe      {recipe.optimizer}, rate {recipe.learning_rate:.4g} after "
        f"{recipe.warmup_epochs:.3g} epochs of warm-up, then {decay}",
        f"            {recipe.epochs:.4g} epochs, momentum {recipe.momentum:.4g}, weight decay "
        f"{recipe.weight_decay:.3g}, label smoothing {recipe.label_smoothing:g}",
        f"            {recipe.source}",
    ]
    if recipe.expected_top1:
        after = f" after {recipe.epochs_to_target:.3g} epochs" if recipe.epochs_to_target else ""
        lines.append(f"            expect {recipe.expected_top1:.1%} top-1{after}")
    return "\n".join(lines)


def _recipe(baseline: list) -> Recipe:
    values = flags.FLAGS
    optimizer = "lars" if values.optimizer == "lars" else "sgd"
    inputs.describe_once(values.data_dir)
    examples = DatasetInfo.load(values.data_dir).splits["train"].num_examples
    if None not in baseline:
        return recipes.from_baseline(
            baseline[0],
            baseline[1],
            values.global_batch_size,
            epochs=values.epochs,
            num_examples=examples,
            model=values.model,
            optimizer=optimizer,
            momentum=values.momentum,
            weight_decay=values.weight_decay,
            label_smoothing=values.label_smoothing,
        )
    recipe = recipes.for_model(values.model, values.global_batch_size, optimizer)
    if abs(examples / recipe.num_examples - 1) > 0.01:
        raise InputError(
            f"Settings are published for ImageNet's {recipe.num_examples:,} training images. "
            f"Received: {examples:,} in {values.data_dir!r}. Give a rate that is right at a small "
            "batch: --baseline_learning_rate and --baseline_batch_size."
        )
    return recipe

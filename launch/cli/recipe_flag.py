"""`--recipe=auto`: settings by model, data and batch; a flag that the person gives wins."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags as absl_flags

from launch.cli import flags
from launch.run.settings import TrainingSettings
from tf_lars import recipes, setting
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError, require
from tf_lars.recipes import Recipe

_GROUP = "Recipe"
_SET = tuple(n for n, s in setting.settings_of(TrainingSettings).items() if s.set_by_recipe)


class Choice(NamedTuple):
    """What a recipe sets.

    Attributes:
      values: by the name of the setting.
      description: lines that say what was chosen and why.
    """

    values: dict[str, object]
    description: str


def define() -> None:
    """Defines `--recipe`, and the baseline for what is not published."""
    absl_flags.DEFINE_string(
        "recipe",
        "none",
        "auto: choose learning rate, warm-up, schedule, epochs, momentum, weight decay and label "
        "smoothing for the model and the batch, and print the choice; flags that are given win.",
        module_name=_GROUP,
    )
    absl_flags.DEFINE_float(
        "baseline_learning_rate",
        None,
        "For --recipe=auto with a model, data or a batch for which nothing is published: a "
        "learning rate that is right at --baseline_batch_size.",
        module_name=_GROUP,
    )
    absl_flags.DEFINE_integer(
        "baseline_batch_size",
        None,
        "The small global batch of --baseline_learning_rate.",
        module_name=_GROUP,
    )


def wanted() -> bool:
    """Returns whether a recipe is to be chosen.

    Raises:
      InputError: the flags contradict each other.
    """
    recipe = absl_flags.FLAGS.recipe
    require(recipe in ("none", "auto"), "--recipe", "none or auto", recipe)
    baseline = _baseline()
    if recipe == "none":
        if baseline != [None, None]:
            raise InputError("A baseline is for --recipe=auto. Received: a baseline without it.")
        return False
    if baseline.count(None) == 1:
        raise InputError(
            "A baseline is --baseline_learning_rate and --baseline_batch_size. Received: one of "
            "them. Give both."
        )
    return True


def choose(values: Mapping[str, Any]) -> Choice:
    """Returns what the recipe sets, without the flags that the person has given.

    Args:
      values: of the flags of `TrainingSettings`, by name.

    Raises:
      InputError: nothing is published and no baseline is given, or no usable data.
    """
    recipe = _recipe(values, _baseline())
    chosen = {name: getattr(recipe, name) for name in _SET}
    chosen["epochs"] = math.ceil(recipe.epochs)  # the Trainer trains whole epochs
    given = flags.given(_SET)
    lines = [f"            but {name} {values[name]}, which was given" for name in given]
    return Choice(
        {n: v for n, v in chosen.items() if v is not None and n not in given},
        "\n".join([recipe.describe(), *lines]),
    )


def _baseline() -> list:
    return [absl_flags.FLAGS.baseline_learning_rate, absl_flags.FLAGS.baseline_batch_size]


def _recipe(values: Mapping[str, Any], baseline: list) -> Recipe:
    optimizer = "lars" if values["optimizer"] == "lars" else "sgd"
    model, batch = values["model"], values["global_batch_size"]
    examples = DatasetInfo.load(values["data_dir"]).splits["train"].num_examples
    if None not in baseline:
        return recipes.from_baseline(
            *baseline,
            batch,
            epochs=values["epochs"],
            num_examples=examples,
            model=model,
            optimizer=optimizer,
            momentum=values["momentum"],
            weight_decay=values["weight_decay"],
            label_smoothing=values["label_smoothing"],
        )
    recipe = recipes.for_model(model, batch, optimizer)
    if abs(examples / recipe.num_examples - 1) > 0.01:
        raise InputError(
            f"Settings are published for ImageNet's {recipe.num_examples:,} training images. "
            f"Received: {examples:,} in {values['data_dir']!r}. Give a learning rate that is right "
            "at a small batch: --baseline_learning_rate and --baseline_batch_size."
        )
    return recipe

"""`--recipe=auto`: settings by model, data and batch, overridden by flags that are given."""

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
    """The settings of a recipe.

    Attributes:
      values: Values by the name of the setting.
      description: Lines of text with the choice and its source.
    """

    values: dict[str, object]
    description: str


def define() -> None:
    """Defines `--recipe`, and the flags of the baseline where nothing is published."""
    absl_flags.DEFINE_string(
        "recipe",
        "none",
        "auto: choose learning rate, warm-up, schedule, epochs, momentum, weight decay and label "
        "smoothing for the model and the batch, and print the choice. Other flags override it.",
        module_name=_GROUP,
    )
    absl_flags.DEFINE_float(
        "baseline_learning_rate",
        None,
        "For --recipe=auto where nothing is published for the model, data or batch: a learning "
        "rate tuned at --baseline_batch_size.",
        module_name=_GROUP,
    )
    absl_flags.DEFINE_integer(
        "baseline_batch_size",
        None,
        "Small global batch of --baseline_learning_rate.",
        module_name=_GROUP,
    )


def wanted() -> bool:
    """Returns whether to choose a recipe.

    Raises:
      InputError: The flags contradict each other.
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
    """Returns the settings of the recipe, except those given as flags.

    Args:
      values: Values of the flags of `TrainingSettings`, by name.

    Raises:
      InputError: Nothing is published and no baseline is given, or the data is unusable.
    """
    recipe = _recipe(values, _baseline())
    chosen = {name: getattr(recipe, name) for name in _SET}
    chosen["epochs"] = math.ceil(recipe.epochs)  # The Trainer trains whole epochs.
    given = flags.given(_SET)
    lines = [f"            overridden: {name} {values[name]}" for name in given]
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
        rate, small_batch = baseline
        return recipes.from_baseline(
            rate,
            small_batch,
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
            f"Received: {examples:,} in {values['data_dir']!r}. Give a learning rate tuned at "
            "a small batch: --baseline_learning_rate and --baseline_batch_size."
        )
    return recipe

"""`--recipe=auto`: settings by model, data and batch, overridden by flags that are given."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.cli import flags
from launch.run import build_input
from launch.run.data_settings import DataSettings
from launch.run.settings import RECIPE_GROUP, TrainingSettings
from tf_lars import recipes
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError
from tf_lars.recipes import Recipe
from tf_lars.setting import batch_size, check, names_where, one_of, positive_rate, setting

_GROUP = "Recipe"
_SET = names_where(TrainingSettings, "set_by_recipe")


class Choice(NamedTuple):
    """The settings of a recipe.

    Attributes:
      values: Values by the name of the setting.
      description: Lines of text with the choice and its source.
    """

    values: dict[str, object]
    description: str


@dataclasses.dataclass(frozen=True)
class RecipeSettings:
    """Settings of the choice of a recipe; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range, or they contradict each other.
    """

    recipe: str = setting(
        "auto: choose learning rate, warm-up, schedule, epochs, momentum, weight decay, label "
        "smoothing and groups of batch normalisation for the model and the batch, and print the "
        "choice. Other flags override it.",
        "none",
        rule=one_of("none", "auto"),
        group=_GROUP,
    )
    baseline_learning_rate: float | None = setting(
        "For --recipe=auto where nothing is published for the model, data or batch: a learning "
        "rate tuned at --baseline_batch_size.",
        None,
        rule=positive_rate(),
        group=_GROUP,
    )
    baseline_batch_size: int | None = setting(
        "Small global batch of --baseline_learning_rate.",
        None,
        rule=batch_size(),
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)
        missing = (self.baseline_learning_rate, self.baseline_batch_size).count(None)
        if self.recipe == "none" and missing < 2:
            raise InputError("A baseline is for --recipe=auto. Received: a baseline without it.")
        if missing == 1:
            raise InputError(
                "A baseline is --baseline_learning_rate and --baseline_batch_size. Received: one "
                "of them. Give both."
            )


def define() -> None:
    """Defines `--recipe`, and the flags of the baseline where nothing is published."""
    flags.define(RecipeSettings)


def wanted() -> bool:
    """Returns whether to choose a recipe.

    Raises:
      InputError: A flag is out of range, or the flags contradict each other.
    """
    return _settings().recipe == "auto"


def choose(values: Mapping[str, Any]) -> Choice:
    """Returns the settings of the recipe, except those given as flags.

    Args:
      values: Values of the flags of `TrainingSettings`, by name.

    Raises:
      InputError: Nothing is published and no baseline is given, or the data is unusable.
    """
    recipe = _recipe(values, _settings())
    chosen = {name: getattr(recipe, name) for name in _SET}
    chosen["epochs"] = math.ceil(recipe.epochs)  # The Trainer trains whole epochs.
    if recipe.batch_norm_group_size:
        # Whether the devices can form the groups is known only once they have joined.
        chosen["batch_norm_group_size"] = RECIPE_GROUP
    given = flags.given(_SET)
    lines = [f"            overridden: {name} {values[name]}" for name in given]
    return Choice(
        {n: v for n, v in chosen.items() if v is not None and n not in given},
        "\n".join([recipe.describe(), *lines]),
    )


def _settings() -> RecipeSettings:
    return RecipeSettings(**flags.values(RecipeSettings))


def _recipe(values: Mapping[str, Any], given: RecipeSettings) -> Recipe:
    optimizer = recipes.optimizer_of_recipes(values["optimizer"])
    model, batch = values["model"], values["global_batch_size"]
    if values.get("batch_size_schedule"):  # the schedule of the rate is for its first batch
        batch = BatchSizeSchedule.parse(values["batch_size_schedule"]).sizes[0]
    data = DataSettings(**flags.values(DataSettings))
    examples = build_input.description(data).splits["train"].num_examples
    if given.baseline_learning_rate and given.baseline_batch_size:
        return recipes.from_baseline(
            given.baseline_learning_rate,
            given.baseline_batch_size,
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
    if not recipe.is_for(examples):
        raise InputError(
            f"Settings are published for ImageNet's {recipe.num_examples:,} training images. "
            f"Received: {examples:,} in {data.data or data.data_dir!r}. Give a learning rate tuned "
            "at a small batch: --baseline_learning_rate and --baseline_batch_size."
        )
    return recipe

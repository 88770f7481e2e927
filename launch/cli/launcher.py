"""Entry point shared by all training launchers: parses their flags and calls their main."""

import sys
from collections.abc import Callable

from launch.cli import app, dry_run, flags, ramp_flag, recipe_flag
from launch.run import build_input, outcome
from launch.run.job import JobSettings
from launch.run.settings import TrainingSettings
from tf_lars.errors import EXIT_INTERRUPTED

Main = Callable[[TrainingSettings, JobSettings], int]


def run(main: Main, define: Callable[[], None]) -> None:
    """Defines and parses the flags, calls `main(settings, job)` and exits with the code it returns.

    Args:
      main: Function that trains, or supervises the processes that do.
      define: Function that defines the launcher's own flags.
    """
    define()
    define_training_flags()

    def call_main() -> int:
        describe_data()
        settings, recipe = chosen_settings()
        if recipe:
            print(recipe)
        job = JobSettings(**flags.values(JobSettings))
        try:
            return main(settings, job)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {outcome.how_to_resume(settings)}", file=sys.stderr)
            return EXIT_INTERRUPTED

    app.run(call_main)


def define_training_flags() -> None:
    """Defines the flags that every launcher has."""
    flags.define(TrainingSettings)
    recipe_flag.define()
    ramp_flag.define()
    flags.define(JobSettings)
    dry_run.define()


def describe_data() -> None:
    """Writes a missing `dataset.json` if `--recipe` is going to read it."""
    if recipe_flag.wanted():
        values = flags.values(TrainingSettings)
        if "data" not in values:
            build_input.describe_once(values["data_dir"], may_write=not dry_run.wanted())


def chosen_settings() -> tuple[TrainingSettings, str]:
    """Returns the settings from the flags and `--recipe`, and the recipe's description.

    Raises:
      InputError: If a flag is out of its range, or there is no such recipe.
    """
    values = ramp_flag.chosen(flags.values(TrainingSettings))
    if not recipe_flag.wanted():
        return TrainingSettings(**values), ""
    choice = recipe_flag.choose(values)
    return TrainingSettings(**(values | choice.values)), choice.description

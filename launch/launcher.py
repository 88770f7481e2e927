"""What all launchers of training share: their flags, and what Ctrl-C leaves to say."""

import sys
from collections.abc import Callable

from launch import app, dry_run, flags, job, training
from launch.settings import TrainingSettings
from tf_lars.errors import EXIT_INTERRUPTED

FLAG_MODULES = (flags, job, dry_run)
"""Modules with a function `define`, for the launcher to call and to adopt the flags of."""


def run(main: Callable[[TrainingSettings], int]) -> None:
    """Parses the flags, calls `main(settings)` and exits with the code that it returns."""

    def call_main() -> int:
        settings = flags.training_settings()
        job.check()
        try:
            return main(settings)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {training.how_to_go_on(settings)}", file=sys.stderr)
            return EXIT_INTERRUPTED

    app.run(call_main)

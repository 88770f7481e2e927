"""The flags of launch.local, defined once in a test's own process."""

import contextlib

from absl import flags
from absl.testing import flagsaver

from launch import local
from launch.cli import launcher


@contextlib.contextmanager
def parsed(*arguments):
    """Within this context, the flags have the values that a command line gives them."""
    if "recipe" not in flags.FLAGS:
        local.define()
        launcher.define_training_flags()
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["program", *arguments])
        yield


def settings(*arguments):
    """Returns the settings that a command line gives, and what the recipe says of them."""
    with parsed(*arguments):
        return launcher.chosen_settings()

"""Runs a program's main function; bad flags or input end it with one sentence and exit code 2."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from launch.cli.flags import help_text
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, InputError

_HELP = ("--help", "-help", "-h", "--helpshort", "-?")


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags, calls `main()` and exits with the code it returns (`None` is 0)."""

    def call_main(argv: Sequence[str]) -> int | None:
        try:
            if len(argv) > 1:
                raise InputError(
                    f"Only flags of the form --name=value are accepted. Received: {argv[1]!r}. "
                    "See --help for the flags."
                )
            return main()
        except InputError as error:
            fail(error)

    # Without a GPU, TensorFlow logs an error at start because it has found none.
    quiet = "2" if os.path.exists("/dev/nvidia0") else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", quiet)
    logging.set_verbosity(logging.WARNING)
    app.run(call_main, flags_parser=_parse_flags)


def fail(error: Exception) -> NoReturn:
    """Prints the error as one line and exits with `EXIT_BAD_INPUT`."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(EXIT_BAD_INPUT)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    if any(argument in _HELP for argument in argv[1:]):
        # absl itself prints the flags of one module, without groups, and exits with code 1.
        print(f"{sys.modules['__main__'].__doc__}{help_text()}")
        sys.exit(EXIT_DONE)
    try:
        # absl itself handles an error by printing a page of text and exiting with code 1.
        return flags.FLAGS(argv)
    except flags.Error as error:
        reason = str(error).removeprefix("ERROR:: ").rstrip(".")  # absl's prefix for flagfiles
        fail(InputError(f"{reason}. See --help for the flags."))

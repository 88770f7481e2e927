"""Runs a program's main function; bad flags or input end it with one sentence and exit code 2."""

import atexit
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from launch.cli.flags import help_text
from tf_lars import optional_imports
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, InputError

_KERAS_CONFIGURATION = os.path.join("keras", "src", "backend", "config.py")
_HELP = ("--help", "-help", "-h", "--helpshort", "-?")


def run(main: Callable[..., int | None], *, takes_arguments: bool = False) -> NoReturn:
    """Parses the flags, calls `main()` and ends the process with the code it returns (`None` is 0).

    Args:
      main: The program.
      takes_arguments: Whether `main` is called with the list of the arguments that are not flags,
        such as paths, in any order with flags. By default they are refused.

    The process ends without the interpreter being finalised. Finalisation kills every thread that
    asks for the interpreter, such as one of an input pipeline that is about to read examples, and
    TensorFlow then waits for that thread's answer forever.
    """

    def call_main(argv: Sequence[str]) -> int | None:
        try:
            if takes_arguments:
                return main(argv[1:])
            if len(argv) > 1:
                raise InputError(
                    f"Only flags of the form --name=value are accepted. Received: {argv[1]!r}. "
                    "See --help for the flags."
                )
            return main()
        except InputError as error:
            fail(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            if not where.filename.endswith(_KERAS_CONFIGURATION):
                raise
            fail(
                InputError(
                    "Keras's configuration, keras.json in ~/.keras or $KERAS_HOME, must hold "
                    f"values that Keras knows. Received: {str(error) or where.line}. Correct or "
                    "remove that file."
                )
            )

    _use_utf8()
    flags.FLAGS.set_gnu_getopt(takes_arguments)  # which reads flags after the first argument too
    # Whatever this host's keras.json says: another backend could not run these programs.
    os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_NNX_ENABLED": "false"}
    optional_imports.keep_out(optional_imports.KERAS_EXTRAS)
    # Without a GPU, TensorFlow logs an error at start because it has found none.
    quiet = "2" if os.path.exists("/dev/nvidia0") else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", quiet)
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(call_main, flags_parser=_parse_flags)
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:  # as of `| head`
        code = 128 + signal.SIGPIPE
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = EXIT_INTERRUPTED if sys.exc_info()[0] is KeyboardInterrupt else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    _end(code or 0)


def _use_utf8() -> None:
    """Has file names and texts encoded in UTF-8, as TensorFlow does, whatever the locale.

    Python would encode them in ASCII in the locale C, unless it is allowed to use its UTF-8 mode,
    which it enters at its start only.
    """
    if sys.getfilesystemencoding() != "utf-8":
        if os.environ.get("PYTHONUTF8") == "1":
            fail(
                InputError(
                    "Python must encode file names in UTF-8. Received: "
                    f"{sys.getfilesystemencoding()} despite PYTHONUTF8=1. Leave out -X utf8=0."
                )
            )
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(code: int) -> NoReturn:
    """Does what the interpreter does at its end, except for destroying all objects."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = code or 128 + signal.SIGPIPE
    os._exit(code & 0xFF)


def fail(error: Exception) -> NoReturn:
    """Prints the error as one line and exits with `EXIT_BAD_INPUT`."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(EXIT_BAD_INPUT)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    if any(argument in _HELP for argument in argv[1:]):
        # absl itself prints the flags of one module, without groups, and exits with code 1.
        print(f"{sys.modules['__main__'].__doc__}{help_text()}")
        sys.exit(EXIT_DONE)
    for argument in argv:
        if argument.encode(errors="replace").decode() != argument:
            fail(InputError(f"Arguments must be encoded in UTF-8. Received: {argument!r}."))
    try:
        # absl itself handles an error by printing a page of text and exiting with code 1.
        return flags.FLAGS(argv)
    except flags.Error as error:
        reason = str(error).removeprefix("ERROR:: ").rstrip(".")  # absl's prefix for flagfiles
        fail(InputError(f"{reason}. See --help for the flags."))

"""Errors with a message for the user, and the exit codes of a training process."""

from collections.abc import Sequence

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
"""Bad flags or input: a restart cannot help, so none is attempted."""
EXIT_PREEMPTED = 42
"""Stopped from outside after saving a checkpoint: restart to resume."""
EXIT_PEER_FAILED = 75
"""Another worker failed: restart the whole group."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C; shells report this code for any program that Ctrl-C ends."""


class InputError(ValueError):
    """Error in a setting or an input.

    The message is one or two sentences for the user: the rule, then "Received: ...", then the fix.
    Launchers print it without a traceback and exit with `EXIT_BAD_INPUT`.
    """


def some(items: Sequence[object], most: int = 10) -> str:
    """Returns the first items, for a message."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def require(holds: object, what: str, rule: str, received: object, remedy: str = "") -> None:
    """Checks a setting.

    Args:
      holds: Whether the setting is valid.
      what: Name of the setting as the user knows it: "--epochs", or "`momentum`" for an argument.
      rule: Description of valid values, such as "at least 1".
      received: Value of the setting.
      remedy: Sentence with the fix; "" if the rule is enough.

    Raises:
      InputError: If the setting is not valid.
    """
    if not holds:
        # Arguments are echoed in Keras's style.
        name = f"{what[1:-1]}=" if what.startswith("`") else ""
        more = f" {remedy}" if remedy else ""
        raise InputError(f"{what} must be {rule}. Received: {name}{received!r}.{more}")


class PeerFailure(RuntimeError):
    """Loss of another worker, without which this one cannot continue: `EXIT_PEER_FAILED`."""


class Preempted(Exception):
    """Stop requested from outside, after a checkpoint was saved: `EXIT_PREEMPTED`."""


class DivergedError(InputError):
    """Training whose gradients are no longer finite, so that further steps would be useless."""

"""What a person did wrong, told in one sentence, and the exit codes of a training process."""

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
"""Bad flags or input: starting again cannot help, so nobody restarts it."""
EXIT_PREEMPTED = 42
"""Stopped from outside after saving a checkpoint: restart to go on."""
EXIT_PEER_FAILED = 75
"""Another worker failed: restart the whole group."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C; a shell reports the same of any program that it ends."""


class InputError(ValueError):
    """A setting or an input that cannot work.

    The message is one sentence or two for a person: the rule, then "Received: ...", then the fix.
    Launchers print it without a traceback and exit with `EXIT_BAD_INPUT`.
    """


def require(holds: object, what: str, rule: str, received: object, remedy: str = "") -> None:
    """Checks a setting.

    Args:
      holds: whether the setting is in order.
      what: its name, as the person knows it: "--epochs", or "`momentum`" for an argument.
      rule: what it must be: "at least 1".
      received: what it is.
      remedy: a sentence that says what to do; "" where the rule says enough.

    Raises:
      InputError: it does not hold.
    """
    if not holds:
        # An argument is echoed as Keras does it.
        name = f"{what[1:-1]}=" if what.startswith("`") else ""
        more = f" {remedy}" if remedy else ""
        raise InputError(f"{what} must be {rule}. Received: {name}{received!r}.{more}")


class PeerFailure(RuntimeError):
    """Another worker is gone, so this one cannot go on: `EXIT_PEER_FAILED`."""


class Preempted(Exception):
    """Training was stopped from outside, after a checkpoint: `EXIT_PREEMPTED`."""


class DivergedError(InputError):
    """Training whose gradients are no longer finite: nothing that goes on would learn."""

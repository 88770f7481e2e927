"""Names and descriptions of checkpoints, without importing TensorFlow."""

import re
from collections.abc import Mapping
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.sealed_json import is_sound

STATE = "state.json"
"""Name of a checkpoint's description."""

_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}\d{{8,}}")


def name_of(step: int) -> str:
    """Returns the name of a step's checkpoint, such as step-00000084."""
    return f"{_PREFIX}{step:08d}"


def step_of(name: str) -> int:
    """Returns the step that a checkpoint's name contains."""
    return int(name.removeprefix(_PREFIX))


def checkpoint_names(directory: str) -> list[str]:
    """Returns the names of the checkpoints in a folder, oldest first; others' files are ignored."""
    if not files.is_folder(directory):
        return []
    return sorted(filter(_NAME.fullmatch, files.names(directory)), key=step_of)


def nothing_to_resume(directory: str) -> InputError:
    """Returns the error to raise if --resume=must finds no checkpoint."""
    return InputError(
        "--resume=must needs a checkpoint to resume from. Received: no complete checkpoint in "
        f"{directory}. Use --resume=auto to start afresh."
    )


def is_state(state: Mapping[str, Any]) -> bool:
    """Returns whether the content of `state.json` is as written.

    Raises:
      KeyError, TypeError, AttributeError: It is not even a dictionary with the names of one.
    """
    step, history = state["step"], state["history"]
    return (
        is_sound(state)
        and type(step) is int
        and step >= 0
        and type(state.get("skipped_steps", 0)) is int
        and isinstance(state["settings"], dict)
        and isinstance(state["sha256"], dict)
        and bool(state["sha256"])
        and isinstance(history, list)
        and all(isinstance(entry, dict) and "step" in entry for entry in history)
        and all(isinstance(v, int | float) for entry in history for v in entry.values())
    )

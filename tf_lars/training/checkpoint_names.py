"""Names of checkpoints, without importing TensorFlow."""

import os

from tf_lars.errors import InputError

_PREFIX = "step-"


def name_of(step: int) -> str:
    """Returns the name of a step's checkpoint, such as step-00000084."""
    return f"{_PREFIX}{step:08d}"


def step_of(name: str) -> int:
    """Returns the step that a checkpoint's name contains."""
    return int(name.removeprefix(_PREFIX))


def checkpoint_names(directory: str) -> list[str]:
    """Returns the names of the checkpoints in a folder, oldest first."""
    if not os.path.isdir(directory):
        return []
    return sorted(name for name in os.listdir(directory) if name.startswith(_PREFIX))


def nothing_to_resume(directory: str) -> InputError:
    """Returns the error to raise if --resume=must finds no checkpoint."""
    return InputError(
        "--resume=must needs a checkpoint to resume from. Received: no complete checkpoint in "
        f"{directory}. Use --resume=auto to start afresh."
    )

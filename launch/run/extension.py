"""`--extend`: a finished run continues to more epochs, with a new schedule."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launch.run.layout import CHECKPOINTS, checkpoints_in
from launch.run.settings import TrainingSettings
from tf_lars import files
from tf_lars.errors import InputError, require
from tf_lars.setting import names_where
from tf_lars.training.checkpoint_names import STATE, is_state

if TYPE_CHECKING:
    from tf_lars.training.checkpoints import Checkpoint

EXTENDED_FROM = "extended_from_epochs"
"""Name, in checkpoints and results.json, of the epochs at which a run was extended."""


@dataclasses.dataclass(frozen=True)
class Extension:
    """The beginning of the epochs that were added last.

    Attributes:
      ends: Epochs after which the run was finished and then extended, in order.
      first_step: Step after which the added epochs begin.
      skipped_steps: Steps skipped before, which the optimizer has not counted.
    """

    ends: tuple[int, ...]
    first_step: int
    skipped_steps: int

    @property
    def first_iteration(self) -> int:
        """Optimizer's count of steps at the beginning."""
        return self.first_step - self.skipped_steps

    def added_steps(self, total_steps: int) -> int:
        """Returns the number of steps from the beginning to the end of the extended run.

        Raises:
          InputError: There are none, since the added epochs are shorter than a batch.
        """
        added = total_steps - self.first_step
        require(added > 0, "--epochs", "large enough for another step", f"{added} more steps")
        return added

    def begins_at(self, checkpoint: "Checkpoint", identity: Mapping[str, object]) -> bool:
        """Returns whether a checkpoint is the end of the run that is extended.

        Args:
          checkpoint: Checkpoint to resume from.
          identity: What identifies the extended run.
        """
        saved = checkpoint.settings
        may_change = {EXTENDED_FROM, *names_where(TrainingSettings, "extension_may_change")}
        return (
            checkpoint.step == self.first_step
            and (*_ends(saved), saved.get("epochs")) == self.ends
            and all(
                saved.get(name) == identity.get(name) for name in {*saved, *identity} - may_change
            )
        )


def planned(settings: TrainingSettings) -> Extension | None:
    """Returns the extension that a run with `--extend` will be.

    TensorFlow is imported only for a remote path.

    Raises:
      InputError: There is no finished run that can be extended.
    """
    if not settings.extend:
        return None
    for name in reversed(checkpoints_in(settings.model_dir)):
        path = os.path.join(settings.model_dir, CHECKPOINTS, name)
        state = None
        # The run itself also checks the files of the variables, and warns about a damaged one.
        with (
            contextlib.suppress(KeyError, TypeError, AttributeError, ValueError, RecursionError),
            files.reading(path),  # also turns errors of remote files into an InputError
        ):
            found = files.read_json(os.path.join(path, STATE))
            state = found if is_state(found) else None
        if state:
            return _of(settings, state["settings"], state["step"], state["history"])
    raise _nothing_to_extend(settings)


def agreed(
    settings: TrainingSettings, is_chief: bool, broadcast_from_chief: Callable[[int], int]
) -> Extension | None:
    """Returns the extension that the chief finds in the newest complete checkpoint, on all workers.

    Args:
      settings: Settings of the run.
      is_chief: Whether this is the chief.
      broadcast_from_chief: Function that returns, on every worker, the chief's number.

    Raises:
      InputError: On the chief, if there is no finished run that can be extended.
    """
    if not settings.extend:
        return None
    numbers: Sequence[int] = ()
    if is_chief:
        found = _newest(settings)
        numbers = (found.first_step, found.skipped_steps, *found.ends)
    length = broadcast_from_chief(len(numbers))
    numbers = numbers or [0] * length
    first_step, skipped_steps, *ends = map(broadcast_from_chief, numbers)
    return Extension(tuple(ends), first_step, skipped_steps)


def _newest(settings: TrainingSettings) -> Extension:
    from tf_lars.training.checkpoints import complete_checkpoints

    newest = next(complete_checkpoints(os.path.join(settings.model_dir, CHECKPOINTS)), None)
    if newest is None:
        raise _nothing_to_extend(settings)
    return _of(settings, newest.settings, newest.step, newest.history)


def _of(
    settings: TrainingSettings,
    saved: Mapping[str, Any],
    step: int,
    history: Sequence[Mapping[str, float]],
) -> Extension:
    """Returns the extension that begins at, or resumes from, a checkpoint."""
    ends, epochs = _ends(saved), saved["epochs"]
    if not ends or settings.epochs != epochs:  # it begins
        rule = f"above {epochs}, the epochs of the run in {settings.model_dir!r}, to extend it"
        require(settings.epochs > epochs, "--epochs", rule, settings.epochs)
        last = history[-1] if history else {"epoch": 0}
        if last["epoch"] != epochs or last["step"] != step:
            raise InputError(
                f"--extend continues a finished run. Received: {settings.model_dir!r}, of which "
                f"{last['epoch']:g} of {epochs} epochs are done. Finish it first, with the command "
                "that it was started with."
            )
        ends = (*ends, epochs)
    added = settings.epochs - ends[-1]
    rule = f"at most {added}, the epochs that are added"
    require(settings.warmup_epochs <= added, "--warmup_epochs", rule, settings.warmup_epochs)
    end = next(entry for entry in history if entry["epoch"] == ends[-1])
    return Extension(ends, int(end["step"]), int(end.get("skipped_steps", 0)))


def _ends(saved: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(saved.get(EXTENDED_FROM) or ())


def _nothing_to_extend(settings: TrainingSettings) -> InputError:
    return InputError(
        "--extend needs a finished run. Received: no complete checkpoint in "
        f"{settings.model_dir!r}. Name the --model_dir of a run, or leave out --extend."
    )

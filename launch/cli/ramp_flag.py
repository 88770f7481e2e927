"""`--batch_size_schedule=auto`: a ramp of the batch that follows a measured critical batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from launch.cli import flags
from tf_lars.errors import InputError
from tf_lars.planner import critical_batch_file, ramp_plan
from tf_lars.setting import batch_size, check, setting

AUTO = "auto"
_GROUP = "Recipe"


@dataclasses.dataclass(frozen=True)
class RampSettings:
    """Settings of the choice of a ramp; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    critical_batch_file: str | None = setting(
        "For --batch_size_schedule=auto: critical_batch.json of launch.critical_batch, for a run "
        "on the same model and data. The ramp begins with --global_batch_size, and doubles with "
        "the first epoch in which the batch within the measurement's tolerance allows it.",
        None,
        group=_GROUP,
    )
    largest_batch: int = setting(
        "For --batch_size_schedule=auto: largest batch of the ramp.",
        65_536,
        rule=batch_size(),
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags."""
    flags.define(RampSettings)


def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the flags of `TrainingSettings` with the schedule in place of "auto".

    Raises:
      InputError: There is no measured critical batch, or a file is given without "auto".
    """
    asked = RampSettings(**flags.values(RampSettings))
    path = asked.critical_batch_file
    if values.get("batch_size_schedule") != AUTO:
        if path is not None:
            raise InputError(
                "--critical_batch_file belongs to --batch_size_schedule=auto. Received: it without "
                "that. Leave it out, or add the other."
            )
        return dict(values)
    if path is None:
        raise InputError(
            "--batch_size_schedule=auto follows a measured critical batch. Received: no "
            "--critical_batch_file. Give that of a run measured with launch.critical_batch, or the "
            "batches by epoch, such as 0:256,4:512."
        )
    points = critical_batch_file.read(path).points
    schedule = ramp_plan.follow(
        points, values["global_batch_size"], asked.largest_batch, values["epochs"]
    )
    return {**values, "batch_size_schedule": str(schedule)}

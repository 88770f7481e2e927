"""The settings of the global batch."""

import dataclasses

from tf_lars import setting as table
from tf_lars.data import order
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError
from tf_lars.schedule_formulas import RATE_RULES
from tf_lars.setting import one_of, setting

SCHEDULE = "Batch, length and learning rate"
"""Group of these settings in `--help`."""


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """The global batch of a run, which may change by epoch; part of `TrainingSettings`.

    Raises:
      InputError: A setting is out of range, or a rule is given without a schedule.
    """

    global_batch_size: int = setting(
        "Examples per optimizer step, over all devices.",
        256,
        rule=table.batch_size(),
        group=SCHEDULE,
    )
    batch_size_schedule: str | None = setting(
        "Global batches by epoch, as epoch:batch,... such as 0:256,4:512,8:1024. The first takes "
        "the place of --global_batch_size, and the learning rate, warm-up and decay, also those of "
        "--recipe=auto, are for it: the schedule counts examples. auto: as large as the critical "
        "batch in --critical_batch_file allows.",
        None,
        group=SCHEDULE,
    )
    batch_schedule_rate: str | None = setting(
        "How the learning rate follows the batch of --batch_size_schedule: constant (by default), "
        "linear, or square_root. The schedule's rate is multiplied by 1, by the ratio to the first "
        "batch, or by its square root.",
        None,
        rule=one_of(*RATE_RULES),
        group=SCHEDULE,
    )

    @property
    def batches(self) -> int | BatchSizeSchedule:
        """The global batch, or the schedule of it."""
        if self.batch_size_schedule:
            return BatchSizeSchedule.parse(self.batch_size_schedule)
        return self.global_batch_size

    @property
    def rate_rule(self) -> str:
        """How the learning rate follows the batch."""
        return self.batch_schedule_rate or "constant"

    def steps_over(self, num_examples: int) -> order.Steps:
        """Returns which examples each step takes, of a number of training examples."""
        return order.Steps.of(num_examples, self.batches)

    def _check_batches(self) -> None:
        if isinstance(self.batches, BatchSizeSchedule):
            # Settings are frozen for others; here they are still being made.
            object.__setattr__(self, "global_batch_size", self.batches.sizes[0])
        elif self.batch_schedule_rate:
            raise InputError(
                "--batch_schedule_rate belongs to --batch_size_schedule. Received: "
                f"{self.batch_schedule_rate!r} without a schedule. Leave it out, or give one such "
                f"as {BatchSizeSchedule.example}."
            )

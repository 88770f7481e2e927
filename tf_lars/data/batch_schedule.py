"""Batch ramps: small batches in early epochs, large ones at the end.

The gradient noise scale grows as training proceeds, and with it the batch beyond which larger ones
are wasted. Doubling the batch has the effect on SGD's noise of halving its rate (Smith et al.,
"Don't Decay the Learning Rate, Increase the Batch Size", arXiv:1711.00489).
"""

from tf_lars.data.epoch_schedule import EpochSchedule
from tf_lars.setting import batch_size


class BatchSizeSchedule(EpochSchedule):
    """Global batch by epoch, such as 0:256,4:512,8:1024."""

    noun = "batch sizes"
    form = "epoch:batch"
    values = "batches"
    rule = batch_size()
    example = "0:256,4:512,8:1024"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Global batches in order."""
        return tuple(size for _, size in self.starts)


def sizes_of(global_batch_size: int | BatchSizeSchedule) -> tuple[int, ...]:
    """Returns all global batches of a run, in order."""
    if isinstance(global_batch_size, BatchSizeSchedule):
        return global_batch_size.sizes
    return (global_batch_size,)

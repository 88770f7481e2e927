"""A batch ramp that follows a measured critical batch."""

import bisect
import math
from collections.abc import Sequence

from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError
from tf_lars.planner.critical_batch_file import CriticalBatchPoint


def follow(
    points: Sequence[CriticalBatchPoint], first_batch: int, largest_batch: int, epochs: int
) -> BatchSizeSchedule:
    """Returns the schedule of the largest batches that are efficient.

    At the beginning of each epoch, the batch is the largest of first_batch, 2 first_batch,
    4 first_batch, ... that is at most the efficient batch there, and at most `largest_batch`; it
    never falls. Between the points, the logarithm of the efficient batch is interpolated in epochs;
    before the first and after the last it stays. The efficient batch of a point is that within the
    tolerance of the measurement or, where that is missing, the lower end of B_crit's interval.

    Args:
      points: Measured points, in order.
      first_batch: Batch of the first epoch, even if it is above the efficient batch.
      largest_batch: Largest batch.
      epochs: Epochs of the run.

    Raises:
      InputError: No point has an efficient batch.
    """
    known = [(p.epoch, p.efficient or p.low) for p in points]
    table = [(epoch, math.log2(batch)) for epoch, batch in known if batch is not None]
    if not table:
        raise InputError(
            "A ramp needs a batch within the tolerance at one point of training at least. "
            f"Received: {len(points)} points without one. Measure with more repeats."
        )
    doublings = max(0, int(math.log2(max(largest_batch / first_batch, 1))))
    starts, current = [(0, first_batch)], 0
    for epoch in range(epochs):
        room = _interpolated(table, epoch) - math.log2(first_batch)
        allowed = min(doublings, math.floor(room + 1e-9))
        if allowed > current:
            current = allowed
            starts = [start for start in starts if start[0] != epoch]
            starts.append((epoch, first_batch * 2**current))
    return BatchSizeSchedule(tuple(starts))


def _interpolated(table: Sequence[tuple[float, float]], epoch: float) -> float:
    """Returns the value at an epoch of a table of (epoch, value), constant outside of it."""
    after = bisect.bisect_right([at for at, _ in table], epoch)
    if after == 0:
        return table[0][1]
    if after == len(table):
        return table[-1][1]
    (left, low), (right, high) = table[after - 1 : after + 1]
    return low + (high - low) * (epoch - left) / (right - left)

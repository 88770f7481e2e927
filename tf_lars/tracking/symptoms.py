"""Signs that a large-batch run is in trouble; each finds one kind, and says it with a number."""

import statistics
from collections import deque
from collections.abc import Sequence

import numpy as np

from tf_lars.errors import some
from tf_lars.tracking.observation import LayerSample, Observation, WorkerTimes


class RecentTimes:
    """Times of the workers over the latest calls of the loop.

    Args:
      calls: Minimum number of calls that they are averaged over.
      seconds: Minimum number of seconds that they are averaged over.
    """

    def __init__(self, calls: int, seconds: float):
        self._calls = calls
        self._seconds = seconds
        self._recent: deque[Observation] = deque()

    def add(self, observation: Observation) -> list[WorkerTimes]:
        """Adds a call; returns the mean times of each worker, or [] as long as there are too few.

        A call that traced the loop begins anew: the input has filled its buffers meanwhile.
        """
        if observation.traced or not observation.workers:
            self._recent.clear()
            return []
        self._recent.append(observation)
        seconds = sum(one.seconds for one in self._recent)
        while len(self._recent) > self._calls and (
            seconds - self._recent[0].seconds > self._seconds
        ):
            seconds -= self._recent.popleft().seconds
        if len(self._recent) < self._calls or seconds < self._seconds:
            return []
        weights = [one.steps for one in self._recent]
        table = np.array([one.workers for one in self._recent])
        return [WorkerTimes(*row) for row in np.average(table, axis=0, weights=weights).tolist()]


def starved(times: Sequence[WorkerTimes], most: float) -> int | None:
    """Returns the worker that waits longest for its input, if that is more than a share `most`."""
    shares = [worker.input_share for worker in times]
    return int(np.argmax(shares)) if shares and max(shares) > most else None


def straggler(times: Sequence[WorkerTimes], most: float) -> tuple[int, float] | None:
    """Returns the slowest worker, and its time over the median of the others, if above `most`.

    A worker's time is that of its forward and backward pass and of its update: it waits for others
    in the all-reduce only, and its input has a warning that tells more.
    """
    if len(times) < 2:
        return None
    own = [worker.compute + worker.update for worker in times]
    slowest = int(np.argmax(own))
    others = statistics.median(own[:slowest] + own[slowest + 1 :])
    return (slowest, own[slowest] / others) if own[slowest] > most * others else None


_MOVING = 1e-5
"""Median update ratio above which the weights move; float32 resolves 6e-8 of a weight."""


class DeadLayers:
    """Counts samples in which a layer has no gradient or does not move, while others do.

    Args:
      samples: Number of samples in a row after which a layer is dead.
    """

    def __init__(self, samples: int):
        self._samples = samples
        self._counts: dict[str, int] = {}

    def add(self, sample: LayerSample) -> list[str]:
        """Adds a sample; returns the paths of the variables that are dead now."""
        if not sample.update_norm.any():  # at the start of a warm-up from 0, none moves
            return []
        # At the end of a decay, updates vanish in the rounding of the weights.
        moving = np.median(sample.update_ratio[sample.update_norm > 0]) > _MOVING
        still = (sample.gradient_norm == 0) | ((sample.update_norm == 0) & moving)
        for path, is_still in zip(sample.paths, still, strict=True):
            self._counts[path] = self._counts.get(path, 0) + 1 if is_still else 0
        return [path for path, count in self._counts.items() if count >= self._samples]


class InARow:
    """Counts how often a symptom has shown in a row.

    Args:
      times: Number of times that are enough.
    """

    def __init__(self, times: int):
        self._times = times
        self._count = 0

    def add(self, shows: bool) -> bool:
        """Adds an observation; returns whether the symptom has shown for long enough."""
        self._count = self._count + 1 if shows else 0
        return self._count >= self._times


def most_grown(first: LayerSample, now: LayerSample) -> tuple[str, float]:
    """Returns the variable whose weights have grown most between two samples, and the factor."""
    ratios = np.divide(
        now.weight_norm,
        first.weight_norm,
        out=np.ones_like(now.weight_norm),
        where=first.weight_norm > 0,
    )
    index = int(np.argmax(ratios))
    return now.paths[index], float(ratios[index])


def initial_share(momentum: float, steps: int) -> float:
    """Returns the share of their initial values in moving averages after some steps: m^steps."""
    return momentum**steps


def dead_message(paths: Sequence[str], samples: int, interval: int) -> str:
    """Returns the warning about dead layers."""
    count = "1 variable has" if len(paths) == 1 else f"{len(paths)} variables have"
    return (
        f"{count} had no gradient or no update in {samples} samples in a row, "
        f"over {samples * interval:,} steps, while others move: {some(paths, 3)}. Look at the "
        "activation before them, and at whether the loss depends on them; freeze layers that are "
        "meant to stay."
    )

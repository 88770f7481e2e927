"""When the workers of a machine are started again, and when not."""

import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable

from tf_lars.cluster.supervisor import Outcome
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED

MAX_RESTARTS = 3
"""Default number of restarts after failures."""
MAX_BACK_OFF_SECONDS = 60.0


def back_off_seconds(restart: int) -> float:
    """Returns the pause before the n-th restart, from 1: 2, 4, 8, ... seconds, at most 60."""
    return min(MAX_BACK_OFF_SECONDS, 2.0**restart)


def may_restart(outcome: Outcome, *, has_trained: bool, restarts: int, max_restarts: int) -> bool:
    """Returns whether workers that ended so are started again.

    Bad input fails again, and so does a job that has never taken a step. A preemption that came
    from elsewhere is no failure, and is not counted.

    Args:
      outcome: of the last start.
      has_trained: whether any start of this job has taken a step.
      restarts: counted so far.
      max_restarts: how many may be.
    """
    if outcome.exit_code in (EXIT_DONE, EXIT_BAD_INPUT):
        return False
    if outcome.exit_code == EXIT_PREEMPTED:
        return True
    return has_trained and restarts < max_restarts


class StopRequest:
    """Notes SIGTERM, from its creation on."""

    def __init__(self):
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._event.set())

    def __call__(self) -> bool:
        """Returns whether it has come."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits until it comes, or so long; returns whether it has come."""
        deadline = time.monotonic() + seconds
        while not self() and time.monotonic() < deadline:  # a signal does not end Event.wait
            self._event.wait(min(0.5, max(0.0, deadline - time.monotonic())))
        return self()


def supervise(
    start: Callable[[int], Outcome], *, max_restarts: int = MAX_RESTARTS, stop: StopRequest
) -> Outcome:
    """Starts workers, and starts them again after failures, until they are done or give up.

    Args:
      start: runs them to their end; is given the number of starts before this one.
      max_restarts: after failures.
      stop: a stop that was asked of this process ends the job.

    Returns:
      How the last start ended. Workers that SIGTERM has ended, because they had nothing to save
      yet, count as preempted if this process was asked to stop.
    """
    restarts, starts, has_trained = 0, 0, False
    while True:
        outcome = start(starts)
        starts += 1
        has_trained = has_trained or outcome.trained
        if stop():
            return _as_preempted(outcome)
        if not may_restart(
            outcome, has_trained=has_trained, restarts=restarts, max_restarts=max_restarts
        ):
            return outcome
        if outcome.exit_code == EXIT_PREEMPTED:
            pause, why = back_off_seconds(1), "the job was asked to save and stop"
        else:
            restarts += 1
            pause = back_off_seconds(restarts)
            why = f"{outcome.report()}\nrestart {restarts} of at most {max_restarts}"
        print(f"\n{why}, in {pause:g} s", file=sys.stderr, flush=True)
        if stop.wait(pause):
            return _as_preempted(outcome)


def _as_preempted(outcome: Outcome) -> Outcome:
    """Returns the outcome of workers that were told to stop before they had anything to save."""
    if outcome.exit_code != -signal.SIGTERM:
        return outcome
    return dataclasses.replace(outcome, exit_code=EXIT_PREEMPTED)

"""Restart policy for the workers of a machine."""

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
    """Returns whether workers with this outcome are restarted.

    Bad input would fail again, and so would a job that has never taken a step. A preemption is not
    a failure and does not count towards the limit.

    Args:
      outcome: Outcome of the last start.
      has_trained: Whether any start of this job has taken a step.
      restarts: Number of restarts counted so far.
      max_restarts: Limit for that number.
    """
    if outcome.exit_code in (EXIT_DONE, EXIT_BAD_INPUT):
        return False
    if outcome.exit_code == EXIT_PREEMPTED:
        return True
    return has_trained and restarts < max_restarts


class StopRequest:
    """Handler that records whether SIGTERM has arrived since its creation."""

    def __init__(self):
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._event.set())

    def __call__(self) -> bool:
        """Returns whether SIGTERM has arrived."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits for SIGTERM, at most this long; returns whether it has arrived."""
        deadline = time.monotonic() + seconds
        while not self() and time.monotonic() < deadline:  # a signal does not end Event.wait
            self._event.wait(min(0.5, max(0.0, deadline - time.monotonic())))
        return self()


def supervise(
    start: Callable[[int], Outcome], *, max_restarts: int = MAX_RESTARTS, stop: StopRequest
) -> Outcome:
    """Runs workers, and restarts them after failures as `may_restart` decides.

    Args:
      start: Function that runs the workers to their end, given the number of earlier starts.
      max_restarts: Maximum number of restarts after failures.
      stop: Request to this process to stop, after which there are no restarts.

    Returns:
      The outcome of the last start. If this process was asked to stop, workers that SIGTERM ended
      before they had anything to save count as preempted.
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
    """Returns the outcome, as a preemption if SIGTERM came before there was anything to save."""
    if outcome.exit_code != -signal.SIGTERM:
        return outcome
    return dataclasses.replace(outcome, exit_code=EXIT_PREEMPTED)

"""What the workers of a job on Ray tell its launcher, and the launcher them.

Ray knows whether a worker's process has raised an error. That an error must not be repeated, that
the job has been told to stop and what the first worker prints is told here.
"""

import time
from typing import NamedTuple

from tf_lars.cluster.supervisor import Outcome, rank_of_cause
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE

CALL_SECONDS = 60.0
"""Time limit for a call of the board."""


class News(NamedTuple):
    """What has happened since the last question.

    Attributes:
      output: Output of the first worker.
      starts: Number of groups of workers that Ray has started so far.
      outcomes: Outcomes of the newest group's workers so far.
      has_trained: Whether any start of the job has taken a step.
      silence: Seconds since any worker was last heard of.
    """

    output: bytes
    starts: int
    outcomes: list[Outcome]
    has_trained: bool
    silence: float

    @property
    def cause(self) -> Outcome | None:
        """The outcome that explains those of the group: that of the first worker to fail."""
        failed = [one for one in self.outcomes if one.exit_code != EXIT_DONE]
        return min(failed, key=lambda one: rank_of_cause(one.exit_code), default=None)


class Board:
    """An actor of the launcher, to be wrapped by `ray.remote`."""

    def __init__(self):
        self._output: list[bytes] = []
        self._groups: list[tuple[str, ...]] = []
        self._outcomes: list[Outcome] = []
        self._has_trained = self._stopping = False
        self._heard = time.monotonic()

    def begin(self, workers: tuple[str, ...]) -> int:
        """Notes a start of a worker; returns how many groups of workers were started before.

        Args:
          workers: Addresses of the worker's group, which no other group has.
        """
        self._heard = time.monotonic()
        if workers not in self._groups:
            self._groups.append(workers)
            self._outcomes = []
        return self._groups.index(workers)

    def beat(self) -> bool:
        """Notes that a worker lives; returns whether all must save and stop."""
        self._heard = time.monotonic()
        return self._stopping

    def end(self, workers: tuple[str, ...], outcome: Outcome) -> bool:
        """Notes how a worker ended; returns whether any start of the job has taken a step.

        Bad input ends the whole job.
        """
        self._heard = time.monotonic()
        self._has_trained = self._has_trained or outcome.trained
        if workers == self._groups[-1]:
            self._outcomes.append(outcome)
        if outcome.exit_code == EXIT_BAD_INPUT:
            self._stopping = True
        return self._has_trained

    def stop(self) -> None:
        """Has all workers save and stop."""
        self._stopping = True

    def show(self, block: bytes) -> None:
        """Takes output of the first worker."""
        self._output.append(block)

    def news(self) -> News:
        """Returns what has happened since the last call."""
        output, self._output = b"".join(self._output), []
        silence = time.monotonic() - self._heard
        return News(output, len(self._groups), self._outcomes, self._has_trained, silence)

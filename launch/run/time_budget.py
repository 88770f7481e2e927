"""The time limit of a program that runs many parts and can continue with the rest."""

import math
import statistics
import time


class TimeBudget:
    """Decides whether another part may start, and estimates when all have ended.

    The first part always may: otherwise a program whose preparations take the whole time would
    never get further, however often it is started.

    Args:
      minutes: Time limit from now for the end of the last part; None or 0 for no limit.
      parts: Name of the parts, such as "trials".
    """

    def __init__(self, minutes: float | None, parts: str):
        self._begin = time.perf_counter()
        self._minutes = minutes or math.inf
        self._parts = parts
        self._seconds: list[float] = []

    def allows(self, left: int) -> bool:
        """Returns whether a part as long as the median so far would end in time; else says so.

        Args:
          left: Number of parts that have not run.
        """
        spent = time.perf_counter() - self._begin
        if not self._seconds or spent + statistics.median(self._seconds) <= 60 * self._minutes:
            return True
        print(
            f"the budget of {self._minutes:g} minutes is used up, with {left} {self._parts} left; "
            "the same command continues with them",
            flush=True,
        )
        return False

    def add(self, seconds: float) -> None:
        """Notes how long a part took."""
        self._seconds.append(seconds)

    def eta(self, left: int) -> str:
        """Returns the time that the parts left will take, as text."""
        from tf_lars.tracking.console import clock

        return clock(statistics.mean(self._seconds) * left)

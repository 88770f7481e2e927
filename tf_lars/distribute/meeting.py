"""Checks that workers do the same, and a limit on how long one waits for another."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from tf_lars.errors import InputError, PeerFailure
from tf_lars.private_api import abort_collectives, tell_other_workers

WAIT_SECONDS = 1800.0
"""Longest time between two batches of a worker, all callbacks of the others included.

Half an hour is what torch's gloo allows.
"""


def gather(strategy: tf.distribute.Strategy, values: list, dtype: tf.DType) -> np.ndarray:
    """Returns the lists of all workers, concatenated by rank; none may be empty."""
    return strategy.gather(tf.constant(values, dtype), axis=0).numpy()


def check_equal(
    strategy: tf.distribute.Strategy, values: Mapping[str, float], rule: str, remedy: str
) -> None:
    """Checks that some numbers are the same on all workers, each of which must call this.

    Args:
      strategy: Strategy of the workers.
      values: Numbers by name; whole ones of up to 53 bits are compared exactly.
      rule: Sentence with the rule.
      remedy: Sentence with what to do.

    Raises:
      InputError: On all workers, if a number differs.
    """
    rows = gather(strategy, list(values.values()), tf.float64).reshape(-1, len(values))
    received = [
        f"{name}={[type(mine)(number) for number in numbers]}"
        for (name, mine), numbers in zip(values.items(), rows.T.tolist(), strict=True)
        if not np.array_equal(numbers, [numbers[0]] * len(numbers), equal_nan=True)
    ]
    if received:
        raise InputError(f"{rule} Received: {' and '.join(received)} by rank. {remedy}")


def meet(strategy: tf.distribute.Strategy, method: str, refusal: InputError | None = None) -> None:
    """Checks that all workers call the same method of a model, and that none refuses the call.

    Args:
      strategy: Strategy of the workers.
      method: Name of the method.
      refusal: Why this worker refuses the call, or None.

    Raises:
      InputError: On all workers, if one refuses the call or calls another method.
    """
    name = int.from_bytes(method.encode()[:6].ljust(6), "little")
    rows = gather(strategy, [name, refusal is not None], tf.int64).reshape(-1, 2)
    if refusal:
        raise refusal
    if (rows[:, 0] != name).any():
        names = [int(n).to_bytes(6, "little").decode().strip() for n in rows[:, 0]]
        raise InputError(
            f"All workers must call the same methods in the same order. Received: {names} by rank, "
            f"where this one calls {method}. Run the same program on every worker."
        )
    if rows[:, 1].any():
        raise InputError(
            f"No worker can take part in {method} without the others. Received: a refusal by the "
            f"workers {np.flatnonzero(rows[:, 1]).tolist()}. Their messages say why."
        )


class _Watch:
    """Ends a call whose worker has waited too long for another one.

    TensorFlow waits forever for a worker that lives but does something else, and its own limit on a
    collective operation costs a sleeping thread for each of them.
    """

    def __init__(self) -> None:
        self.seconds = WAIT_SECONDS
        self._method: str | None = None
        self._since = 0.0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def over(self, method: str) -> Iterator[bool]:
        """Within this context, waits are limited and the loss of a worker is told in a sentence.

        Args:
          method: What this worker is doing, for the message.

        Yields:
          Whether this is the outermost such context.

        Raises:
          PeerFailure: If another worker is lost, or does not come in time.
          InputError: If workers do different things at the same time.
        """
        if self._method:
            yield False
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True, name="tf_lars_watch")
            self._thread.start()
        self.step()
        self._method = method
        try:
            yield True
        except tf.errors.OpError as error:
            raise _told_to_all(error, method) from error
        finally:
            self._method = None

    def step(self) -> None:
        """Starts the time anew: this worker did not wait in vain."""
        self._since = time.monotonic()

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, self.seconds / 10))
            method, waited = self._method, time.monotonic() - self._since
            if method and waited > self.seconds:
                abort_collectives(
                    f"{method} {_EVERY_WORKER} Received: none from another worker for "
                    f"{self.seconds:g} seconds. Call the same methods on every worker, or allow "
                    "longer pauses with create_strategy(wait_seconds=...)."
                )
                return


watch = _Watch()
"""The watch of this process, which joins one job only."""

_EVERY_WORKER = "needs every worker, at every step."
_SAME_STEPS = "All workers must take the same steps."
_ABORTED = re.compile(r"Collective ops is aborted by: (?:Error reported from \S+ )?(.+)")


def _told_to_all(error: tf.errors.OpError, method: str) -> Exception:
    """Returns the error to report for one of TensorFlow's runtime: itself, if it is no worker's.

    What ends the collective operations of this worker, now and later, is also told to the others,
    which may be waiting for it.
    """
    aborted = _ABORTED.search(error.message)
    reason = aborted[1] if aborted else error.message.splitlines()[0]
    explained: Exception
    if aborted and (_SAME_STEPS in reason or "expected type" in reason):
        explained = InputError(
            f"{_SAME_STEPS} Received: another operation from another worker, during {method}. What "
            "stops training within an epoch, evaluates or predicts must do so on every worker "
            "after the same batch."
        )
    elif aborted and _EVERY_WORKER in reason:
        explained = PeerFailure(reason)
    elif isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
        return PeerFailure(
            f"Another worker was lost during {method}, and this one cannot continue without it: "
            f"{reason.rstrip(':.')}."
        )
    else:
        return error
    tell_other_workers(str(explained))
    return explained

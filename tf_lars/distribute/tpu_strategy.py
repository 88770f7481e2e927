"""Creates the strategy for the cores of a TPU, or fails with one sentence if there is none.

Not run on a TPU yet. The tests cover the message on a machine without one.
"""

import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_lars.cluster import messages, proxies
from tf_lars.cluster.spec import split_address
from tf_lars.errors import InputError

LOCAL = "local"
_GRPC = "grpc://"
_METADATA_SERVER = "metadata.google.internal:80"
"""Resolves the names of TPUs; reachable on Google Cloud only."""


def create(tpu: str, timeout: float) -> tf.distribute.TPUStrategy:
    """Returns the strategy for all cores of a TPU.

    Args:
      tpu: "local" for the TPU of this host; the name of a Cloud TPU, of one host or of a slice of
        several; or the addresses of its TensorFlow servers, "grpc://host:8470", separated by
        commas. The process runs on one host only: TensorFlow reaches the others by itself.
      timeout: Seconds within which the TPU must be found and initialised.

    Raises:
      InputError: If there is no such TPU, or it does not answer.
    """
    _check_reachable(tpu)
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    try:
        found = within(timeout, lambda: resolver.connect(tpu))
        return tf.distribute.TPUStrategy(found)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError, ImportError) as error:
        raise _refusal(tpu, str(error)) from error


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Returns the result of a call, or raises its exception, within a time limit.

    Raises:
      TimeoutError: If the call has not returned. Its thread keeps running, but does not keep the
        process alive.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def run():
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="time limit", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"it did not answer within {seconds:g} s")
    result, error = outcome[0]
    if error:
        raise error
    return result


def _check_reachable(tpu: str) -> None:
    """Checks quickly that the TPU's servers, for which TensorFlow would wait, can be reached."""
    if tpu == LOCAL:
        return
    addresses = tpu.split(",") if tpu.startswith(_GRPC) else [_METADATA_SERVER]
    for address in addresses:
        target = address.removeprefix(_GRPC)
        if not target.rpartition(":")[2].isdecimal() or ":" not in target:
            raise InputError(
                f"The address of a TPU must be {_GRPC}host:port. Received: {address!r} in "
                f"--tpu={tpu}."
            )
        proxies.bypass([split_address(target)[0]])
        try:
            messages.connect(target).close()
        except OSError as error:
            why = f"{address}: {error}"
            if target == _METADATA_SERVER:
                why = (
                    f"a name resolves on Google Cloud only, and this machine is not there: {error}"
                )
            raise _refusal(tpu, why) from error


def _refusal(tpu: str, why: str) -> InputError:
    why = " ".join(why.split()).partition(". ")[0]
    where = "on this host" if tpu == LOCAL else f"named {tpu!r}"
    return InputError(
        f"launch.tpu needs a TPU {where}. Received: none ({why}). Start it on a TPU VM, or use "
        "launch.local or launch.gpu_cluster."
    )

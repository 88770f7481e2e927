"""The losses of Keras's `fit` on several workers as those of the whole batch.

Keras divides by the number of replicas in its `Loss` objects and `add_loss`, and sums the gradients
of the replicas. What a model computes otherwise, in its own `train_step` or `compute_loss`, is not
divided: it is trained with gradients that are too long. What it reports itself is a fraction of the
true loss where a `Loss` object computed it. Within a step of `fit`, every loss is therefore that of
a worker's part, as in a program for one device, and gradients are averaged.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf


class _Local(threading.local):
    """Whether this thread traces a step of `fit`; several replicas have a thread each."""

    in_step: bool = False


_local = _Local()


def within_step(step: Callable) -> Callable:
    """Returns a step of a model in which the functions of this module take effect."""

    @functools.wraps(step)
    def traced(data: Any) -> Any:
        before, _local.in_step = _local.in_step, True
        try:
            return step(data)
        finally:
            _local.in_step = before

    return traced


def replacements(stock: dict[str, Callable]) -> dict[str, Callable]:
    """Returns what replaces Keras's functions, by their names.

    Args:
      stock: Keras's own functions by name, once they have been replaced.
    """

    def scale_loss_for_distribution(value):
        return value if _local.in_step else stock["scale_loss_for_distribution"](value)

    def unscale_loss_for_distribution(value):
        return value if _local.in_step else stock["unscale_loss_for_distribution"](value)

    def reduce_values(values, sample_weight=None, reduction="sum_over_batch_size"):
        loss = stock["reduce_values"](values, sample_weight, reduction)
        if _local.in_step and reduction == "sum" and values.shape.rank != 0:
            # The mean over the workers is the sum over the whole batch.
            loss *= tf.cast(_replicas(), loss.dtype)
        return loss

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if not _local.in_step:
            return stock["_all_reduce_sum_gradients"](self, grads_and_vars)
        return stock["_all_reduce_sum_gradients"](self, _shares(grads_and_vars))

    return {
        "scale_loss_for_distribution": scale_loss_for_distribution,
        "unscale_loss_for_distribution": unscale_loss_for_distribution,
        "reduce_values": reduce_values,
        "_all_reduce_sum_gradients": _all_reduce_sum_gradients,
    }


def _shares(grads_and_vars: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Returns gradients of which the sum over the replicas is the mean."""

    def share(gradient):
        return tf.math.scalar_mul(tf.cast(1 / _replicas(), gradient.dtype), gradient)

    return [(None if g is None else share(g), v) for g, v in grads_and_vars]


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync

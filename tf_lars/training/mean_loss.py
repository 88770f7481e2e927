"""The loss of a batch as a mean over the examples that count in the global batch.

Keras means losses over a replica's part and divides by the number of replicas in `Loss` objects, in
the losses that a model was compiled with and in `add_loss`: a `Loss` object in `add_loss` is
divided twice, and what a model's own `compute_loss` adds is not divided. It counts padding, masked
steps by their number on each replica, and fails on a weight per example where a loss has a value
per pixel. Here every source of loss is a mean over the replica's part, and the caller divides.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.private_api import compute_loss, replace_loss_reduction
from tf_lars.training.batch import Batch


class _Local(threading.local):
    """The batch of the losses that are being computed; replicas are traced in several threads."""

    batch: Batch | None = None
    one_pass: bool = True


_local = _Local()


@contextlib.contextmanager
def averaged_over(batch: Batch, *, one_pass: bool) -> Iterator[None]:
    """Within this context, Keras's losses are means over the examples of a batch that count.

    Args:
      batch: Part of the global batch.
      one_pass: Whether each replica computes its loss once per step, outside of XLA, so that it can
        ask the others how many steps of theirs are masked.
    """
    replace_loss_reduction(_is_active, _mean, _per_batch)
    before = _local.batch, _local.one_pass
    _local.batch, _local.one_pass = batch, one_pass
    try:
        yield
    finally:
        _local.batch, _local.one_pass = before


def mean_loss(model: keras.Model, batch: Batch, y_pred: Any, *, training: bool) -> tf.Tensor:
    """Returns the mean over a replica's part, of which the mean over replicas is the global one.

    Must be called within `averaged_over`, like the model before it, whose layers may add losses.
    """
    return compute_loss(model, batch.x, batch.y, y_pred, batch.sample_weight, training=training)


def _is_active() -> bool:
    return _local.batch is not None


def _per_batch(value: tf.Tensor) -> tf.Tensor:
    """Returns a mean so that its sum over batches, weighted by their sizes, counts no padding."""
    fill = _local.batch.fill if _local.batch else None
    return value if fill is None else value * tf.cast(fill[0], value.dtype)


def _mean(values: Any, sample_weight: Any, mask: Any, dtype: Any) -> tf.Tensor:
    """Returns the mean of a loss's values `[examples, ...]`, weighted.

    Args:
      values: Values of the loss, one or several per example.
      sample_weight: Weights of the examples or of their values, or None.
      mask: Which values count, or None.
      dtype: Type of the loss.
    """
    values = tf.convert_to_tensor(values)
    values = tf.cast(values, dtype) if dtype else values
    batch = _local.batch
    assert batch is not None
    if sample_weight is not None:
        values *= _for_values(tf.cast(sample_weight, values.dtype), values)
    if mask is not None:
        values *= _for_values(_valid(tf.cast(mask, values.dtype), batch), values)
    elif batch.real is not None and values.shape[0] == batch.size:
        share = tf.math.divide_no_nan(batch.real, batch.fill)
        values *= _for_values(tf.cast(share, values.dtype), values)
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def _for_values(weight: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns weights with as many axes as the values; those of an example hold for its values."""
    extra = values.shape.rank - weight.shape.rank
    if extra == -1 and weight.shape[-1] == 1:
        return tf.squeeze(weight, -1)
    for _ in range(extra):
        weight = weight[..., tf.newaxis]
    return weight


def _valid(mask: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Returns a mask scaled so that a mean over all values is one over those that count."""
    if batch.real is not None and mask.shape[0] == batch.size:
        mask *= _for_values(tf.cast(batch.real, mask.dtype), mask)
    valid = tf.reduce_sum(mask)
    context = tf.distribute.get_replica_context()
    if _local.one_pass and context is not None and context.num_replicas_in_sync > 1:
        valid = tf.stop_gradient(context.all_reduce("MEAN", valid))
    return mask * tf.math.divide_no_nan(tf.cast(tf.size(mask), mask.dtype), valid)

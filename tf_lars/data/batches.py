"""Batches of one worker, made from the positions that `tf_lars.data.order` gives it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tf_lars.data import order
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.machine import available_cores

_as_it_is = tf.autograph.experimental.do_not_convert
"""The functions of these pipelines need no AutoGraph, whose conversion would take seconds."""


class EvaluationSource(Protocol):
    """Data to evaluate on."""

    @property
    def num_examples(self) -> int:
        """Number of examples."""

    @property
    def global_batch_size(self) -> int:
        """Examples per step over all replicas."""


class TrainingSource(Protocol):
    """Data to train on."""

    @property
    def num_examples(self) -> int:
        """Number of examples."""

    @property
    def global_batch_size(self) -> int | BatchSizeSchedule:
        """Examples per step over all replicas, or a schedule of it."""

    @property
    def seed(self) -> int:
        """Seed of the order."""


class Positions(NamedTuple):
    """Positions of the examples that one worker reads, in order.

    Attributes:
      chunks: Dataset of vectors, as `tf_lars.data.order` returns it.
      batch_size: Examples in a batch, which feeds one replica.
    """

    chunks: tf.data.Dataset
    batch_size: int

    def gather(self, lookup: Callable[..., Any]) -> tf.data.Dataset:
        """Returns batches of data in memory.

        Args:
          lookup: Function from the positions of a batch to the batch.
        """
        return self.chunks.rebatch(self.batch_size, drop_remainder=True).map(_as_it_is(lookup))

    def read(self, read: Callable[..., Any], prepare: Callable[..., Any]) -> tf.data.Dataset:
        """Returns batches of data on disk, prefetched.

        Args:
          read: Function from the positions of a chunk to vectors with an entry per example.
          prepare: Function from the entries of one example to the example.
        """
        return (
            self.chunks.map(_as_it_is(read), num_parallel_calls=2)
            .unbatch()
            .map(_as_it_is(prepare), num_parallel_calls=available_cores())
            .batch(self.batch_size, drop_remainder=True)
            .prefetch(2)
        )


def training_positions(
    data: TrainingSource, context: tf.distribute.InputContext, first_step: int, last_step: int
) -> Positions:
    """Returns the positions that one worker trains on in steps `[first_step, last_step)`.

    Their elements are `(epoch, index)`. The steps are of one phase of a schedule of batches.

    Raises:
      InputError: The global batch does not divide among the replicas.
    """
    size = order.Steps.of(data.num_examples, data.global_batch_size).batch_size(first_step)
    batch_size = order.per_replica_batch_size(size, context.num_replicas_in_sync)
    chunks = order.training_positions(
        context,
        num_examples=data.num_examples,
        global_batch_size=data.global_batch_size,
        seed=data.seed,
        first_step=first_step,
        last_step=last_step,
    )
    return Positions(chunks, batch_size)


def evaluation_positions(data: EvaluationSource, context: tf.distribute.InputContext) -> Positions:
    """Returns the positions that one worker evaluates.

    Their elements are `(index, weight)`; weight 0 marks padding.

    Raises:
      InputError: The global batch does not divide among the replicas.
    """
    batch_size = order.per_replica_batch_size(data.global_batch_size, context.num_replicas_in_sync)
    chunks = order.evaluation_positions(
        context, num_examples=data.num_examples, global_batch_size=data.global_batch_size
    )
    return Positions(chunks, batch_size)

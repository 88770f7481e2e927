"""Training and evaluation data from arrays in memory, in the order of `tf_lars.data.order`."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_lars.data import batches, order
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError


def check_lengths(element: tuple[Any, ...]) -> int:
    """Checks that arrays have the same number of examples, and returns it.

    Args:
      element: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each a nested structure of arrays.

    Raises:
      InputError: The lengths differ.
    """
    lengths = [[len(leaf) for leaf in tf.nest.flatten(one)] for one in element]
    if len({length for one in lengths for length in one}) > 1:
        names = ("x", "y", "sample_weight")
        found = ", ".join(
            f"{name} of {' and '.join(map(str, one))}"
            for name, one in zip(names, lengths, strict=False)
        )
        raise InputError(
            f"All arrays must have the same number of examples. Received: {found}. Cut them to "
            "the same length."
        )
    return lengths[0][0]


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayTrainingInput:
    """Shuffled batches `(x, y)` of two arrays, for `Trainer.fit`.

    Attributes:
      x: Inputs, `[examples, ...]`.
      y: Targets, `[examples, ...]`.
      global_batch_size: Examples per optimizer step over all replicas, or a schedule of it by
        epoch: see `tf_lars.data.order.Steps`.
      seed: Seed of the order.
    """

    x: Any
    y: Any
    global_batch_size: int | BatchSizeSchedule
    seed: int = 0

    def __post_init__(self):
        check_lengths((np.asarray(self.x), np.asarray(self.y)))

    @property
    def num_examples(self) -> int:
        """Number of training examples."""
        return len(self.x)

    @property
    def shape_changes(self) -> tuple[int, ...]:
        """Steps before which the size of the batches changes."""
        return order.Steps.of(self.num_examples, self.global_batch_size).changes

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica, for steps `[first_step, last_step)`."""
        positions = batches.training_positions(self, context, first_step, last_step)
        x, y = tf.constant(np.asarray(self.x)), tf.constant(np.asarray(self.y))
        return positions.gather(
            lambda _, index: (tf.gather(x, index), tf.gather(y, index))
        ).prefetch(2)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayEvaluationInput:
    """Each example of two arrays once, as `(x, y, weight)`, for `Trainer.evaluate`.

    Attributes:
      x: Inputs, `[examples, ...]`.
      y: Targets, `[examples, ...]`.
      global_batch_size: Examples per evaluation step over all replicas.
    """

    x: Any
    y: Any
    global_batch_size: int
    max_bad_records: ClassVar[int] = 0

    def __post_init__(self):
        check_lengths((np.asarray(self.x), np.asarray(self.y)))

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(self.x)

    @property
    def steps(self) -> int:
        """Number of global batches that hold every example."""
        return order.evaluation_steps(self.num_examples, self.global_batch_size)

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; every worker has the same number."""
        positions = batches.evaluation_positions(self, context)
        x, y = tf.constant(np.asarray(self.x)), tf.constant(np.asarray(self.y))
        return positions.gather(
            lambda index, weight: (tf.gather(x, index), tf.gather(y, index), weight)
        )

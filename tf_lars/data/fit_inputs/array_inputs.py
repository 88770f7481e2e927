"""Arrays in memory, in any nested structure, as Keras's `fit` takes them."""

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data import order
from tf_lars.data.arrays import check_lengths
from tf_lars.data.fit_inputs.fit_batch import FitBatch, class_weighter
from tf_lars.errors import InputError

_CHECKED_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class FitArrays:
    """Arrays of one example per row, for training or evaluation.

    Attributes:
      element: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each a nested structure of arrays.
      global_batch_size: Examples per step over all replicas; the last step of an epoch has fewer.
      shuffle: Whether training takes the examples of each epoch in another order.
      seed: Seed of the order.
      class_weight: Weight of each class in training, or None.
    """

    element: tuple[Any, ...]
    global_batch_size: int
    shuffle: bool = True
    seed: int = 0
    class_weight: Mapping[int, float] | None = None
    shape_changes: ClassVar[tuple[int, ...]] = ()
    max_bad_records: ClassVar[int] = 0

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(tf.nest.flatten(self.element)[0])

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        return order.evaluation_steps(self.num_examples, self.global_batch_size)

    def fingerprint(self) -> int:
        """Returns a number that is equal on two workers with the same arrays.

        Of each array, the first mebibyte counts.
        """
        leaves = tf.nest.flatten(self.element)
        rows = (leaf[: max(1, _CHECKED_BYTES // max(1, leaf[:1].nbytes))] for leaf in leaves)
        return checksum(rows, self.num_examples)

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int = 0, last_step: int | None = None
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; in training, for a range of steps."""
        is_training = last_step is not None
        chunks = order.fit_positions(
            context,
            num_examples=self.num_examples,
            global_batch_size=self.global_batch_size,
            seed=self.seed if is_training and self.shuffle else None,
            first_step=first_step,
            last_step=self.steps if last_step is None else last_step,
        )
        share = order.per_replica_batch_size(self.global_batch_size, context.num_replicas_in_sync)
        tensors = tf.nest.map_structure(tf.convert_to_tensor, self.element)
        weigh = class_weighter(self.class_weight if is_training else None)

        @tf.autograph.experimental.do_not_convert
        def gather(index: tf.Tensor, real: tf.Tensor, fill: tf.Tensor) -> FitBatch:
            rows = tf.nest.map_structure(lambda t: tf.gather(t, index), tensors)
            return FitBatch(weigh(*rows), real, fill)

        return chunks.rebatch(share, drop_remainder=True).map(gather).prefetch(2)


def checksum(leaves: Iterable[Any], start: int = 0) -> int:
    """Returns a number of 32 bits that is equal for equal arrays."""
    for leaf in map(np.asarray, leaves):
        is_text = leaf.dtype == object  # pointers otherwise
        content = repr(leaf.tolist()).encode() if is_text else np.ascontiguousarray(leaf).tobytes()
        start = zlib.crc32(content, start)
    return start


def as_rows(element: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns arrays as NumPy arrays with equal lengths; floats of 64 bits become Keras's floats.

    Args:
      element: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each a nested structure of NumPy arrays,
        tensors, or pandas series and frames.

    Raises:
      InputError: A leaf is not an array, or the lengths differ.
    """
    rows = tuple(tf.nest.map_structure(_as_array, _without_lists(one)) for one in element)
    if check_lengths(rows) == 0:
        raise InputError("Arrays must hold examples. Received: arrays of length 0.")
    return rows


def _without_lists(value: Any) -> Any:
    """Returns a structure with tuples for lists, which tf.data would turn into tensors."""
    if isinstance(value, dict):
        return {name: _without_lists(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_without_lists(one) for one in value)
    return value.to_numpy() if hasattr(value, "to_numpy") else value  # pandas


def _as_array(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf) if hasattr(leaf, "shape") else None
    if array is None or array.ndim == 0:
        raise InputError(
            "Data must be arrays, tensors, pandas frames, or lists, tuples and dictionaries of "
            f"them. Received: {leaf!r:.100}. Convert it with np.asarray."
        )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array

"""Sources that yield whole batches: `tf.data.Dataset`, `keras.utils.PyDataset` and generators.

Each worker reads every global batch and keeps its part, so all workers must read the same batches
in the same order.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_lars.data import order, pipeline_host
from tf_lars.data.fit_inputs.array_inputs import as_rows, checksum
from tf_lars.data.fit_inputs.fit_batch import class_weighter, of_replicas
from tf_lars.errors import InputError

_LOOKED_AT = 2
"""Number of batches from which shapes are known, as in Keras."""

_INSTEAD_OF_PYTHON = "Give arrays, or a tf.data.Dataset without Python functions."


@dataclasses.dataclass(frozen=True, eq=False)
class BatchStream:
    """Batches of a source, for training or evaluation.

    Attributes:
      open: Function from `(first, last)` to a dataset of the source's batches in these steps.
      global_batch_size: Examples of a batch.
      steps: Number of batches in an epoch.
      first: First batch, from which workers see that they read the same.
      class_weight: Weight of each class in training, or None.
      is_read_anew_each_epoch: Whether the source may change between epochs.
      epoch_ended: Function to call after each epoch of training.
    """

    open: Callable[[int, int], tf.data.Dataset]
    global_batch_size: int
    steps: int
    first: Any
    class_weight: Mapping[int, float] | None = None
    is_read_anew_each_epoch: bool = False
    epoch_ended: Callable[[], None] = lambda: None
    shape_changes: ClassVar[tuple[int, ...]] = ()
    max_bad_records: ClassVar[int] = 0
    num_examples: ClassVar[None] = None
    """Unknown: a last batch may be smaller."""

    def fingerprint(self) -> int:
        """Returns a number that is equal on two workers with the same first batch.

        Of a batch with targets, only these count: inputs may be augmented at random.
        """
        element = self.first[1:] if isinstance(self.first, tuple) and self.first[1:] else self.first
        return checksum(tf.nest.flatten(element), self.steps)

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int = 0, last_step: int | None = None
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; in training, for a range of steps."""
        is_training = last_step is not None
        order.per_replica_batch_size(self.global_batch_size, context.num_replicas_in_sync)
        batches = self.open(first_step, self.steps if last_step is None else last_step)
        if is_training and self.class_weight:
            batches = batches.map(class_weighter(self.class_weight))
        return of_replicas(batches, context, self.global_batch_size)

    def first_batch(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's parts of the first batch, which is kept."""
        batches = tf.data.Dataset.from_tensors(self.first)
        return of_replicas(batches, context, self.global_batch_size)


def of_dataset(
    source: tf.data.Dataset, steps: int | None, class_weight: Mapping[int, float] | None = None
) -> BatchStream:
    """Returns the stream of a dataset of batches.

    Args:
      source: Dataset of batches `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
      steps: Batches in an epoch; by default those of the whole dataset, which are counted if
        TensorFlow does not know their number. An epoch begins where the last one ended.
      class_weight: Weight of each class.

    Raises:
      InputError: The dataset is empty, or endless and `steps` is None.
    """
    for spec in tf.nest.flatten(source.element_spec):
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank == 0:
            raise InputError(
                "A dataset must yield batches of dense tensors. Received: elements of "
                f"{source.element_spec}. Batch it."
            )
    first = next(source.take(1).as_numpy_iterator(), None)
    if first is None:
        raise InputError("A dataset must hold batches. Received: an empty one.")
    length = int(source.cardinality())
    if length == tf.data.INFINITE_CARDINALITY and steps is None:
        raise InputError(
            "An endless dataset needs steps_per_epoch, or validation_steps. Received: neither."
        )
    if length == tf.data.UNKNOWN_CARDINALITY and steps is None:
        logging.warning("Counting the batches of a dataset of unknown length.")
        length = int(source.reduce(np.int64(0), lambda count, *_: count + 1))

    def open_at(first_step: int, _: int) -> tf.data.Dataset:
        if first_step:
            logging.warning("Passing over %d batches of a dataset.", first_step)
        batches = pipeline_host.moved(source).repeat()
        return batches.skip(first_step) if first_step else batches

    return BatchStream(
        open_at, len(tf.nest.flatten(first)[0]), steps or length, first, class_weight
    )


def of_py_dataset(
    source: keras.utils.PyDataset,
    steps: int | None,
    class_weight: Mapping[int, float] | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> BatchStream:
    """Returns the stream of a `PyDataset`, whose batches are read by number, in threads.

    Args:
      source: Batches by number; its `workers` is the number of threads.
      steps: Batches in an epoch; by default all. An endless dataset needs it.
      class_weight: Weight of each class.
      shuffle: Whether the batches of each epoch come in another order.
      seed: Seed of that order.

    Raises:
      InputError: The dataset is empty, or endless and `steps` is None.
    """
    length = source.num_batches
    if length is None and steps is None:
        raise InputError("An endless PyDataset needs steps_per_epoch. Received: none.")
    if length == 0:
        raise InputError("A PyDataset must hold batches. Received: an empty one.")
    count = steps or length
    examples = [_checked(source[i]) for i in range(min(_LOOKED_AT, length or _LOOKED_AT))]
    spec = _common_spec(examples)

    def number_of(step: tf.Tensor) -> tf.Tensor:
        if length is None:
            return step
        place = step % length
        if not shuffle:
            return place
        return order.permute(place[None], seed, (step // length)[None], length)[0]

    def read(number: np.ndarray) -> list[np.ndarray]:
        return tf.nest.flatten(_checked(source[int(number)]))

    def read_in_graph(step: tf.Tensor) -> Any:
        leaves = tf.nest.flatten(spec)
        values = tf.numpy_function(
            read, [number_of(step)], [leaf.dtype for leaf in leaves], stateful=False
        )
        for value, leaf in zip(values, leaves, strict=True):
            value.set_shape(leaf.shape)
        return tf.nest.pack_sequence_as(spec, values)

    def open_at(first_step: int, last_step: int) -> tf.data.Dataset:
        pipeline_host.refuse_remote("a PyDataset", _INSTEAD_OF_PYTHON)
        steps_left = tf.data.Dataset.range(first_step, last_step)
        return steps_left.map(read_in_graph, num_parallel_calls=max(1, source.workers))

    return BatchStream(
        open_at,
        len(tf.nest.flatten(examples[0])[0]),
        count,
        examples[0],
        class_weight,
        is_read_anew_each_epoch=True,
        epoch_ended=source.on_epoch_end,
    )


def of_generator(
    source: Iterator[Any], steps: int | None, class_weight: Mapping[int, float] | None = None
) -> BatchStream:
    """Returns the stream of a generator of batches, which is read once, from where it stands.

    A run that resumes draws the batches of the earlier steps again and passes over them.

    Raises:
      InputError: `steps` is None.
    """
    if steps is None:
        raise InputError(
            "A generator needs steps_per_epoch, or validation_steps, because its length is "
            "unknown. Received: neither."
        )
    examples = []
    for _ in range(_LOOKED_AT):
        try:
            examples.append(_checked(next(source)))
        except StopIteration:
            break
    if not examples:
        raise InputError("A generator must yield batches. Received: one that is exhausted.")
    spec = _common_spec(examples)

    def batches() -> Iterator[Any]:
        while examples:
            yield examples.pop(0)
        for batch in source:
            yield _checked(batch)
        raise InputError(
            "A generator must yield steps_per_epoch batches for each epoch. Received: one that "
            "ended before. Yield more, or lower epochs or steps_per_epoch."
        )

    stream = tf.data.Dataset.from_generator(batches, output_signature=spec)

    def open_at(first_step: int, _: int) -> tf.data.Dataset:
        pipeline_host.refuse_remote("a generator", _INSTEAD_OF_PYTHON)
        if first_step:
            logging.warning("Passing over %d batches of a generator.", first_step)
        return stream.skip(first_step) if first_step else stream

    first = examples[0]
    return BatchStream(open_at, len(tf.nest.flatten(first)[0]), steps, first, class_weight)


def _checked(batch: Any) -> tuple[Any, ...]:
    """Returns a batch as `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each of nested arrays."""
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    return as_rows(tuple(part for part in parts if part is not None))


def _common_spec(batches: list[Any]) -> Any:
    """Returns the specification that fits all batches; sizes that differ are unknown."""

    def common(*leaves: np.ndarray) -> tf.TensorSpec:
        sizes = [set(sizes) for sizes in zip(*(leaf.shape for leaf in leaves), strict=True)]
        shape = [None, *(sizes.pop() if len(sizes) == 1 else None for sizes in sizes[1:])]
        return tf.TensorSpec(shape, leaves[0].dtype)

    return tf.nest.map_structure(common, *batches)

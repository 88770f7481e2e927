"""Global batches as Keras's `fit` takes them, cut into the parts of workers and replicas.

An epoch is a whole number of batches, as in Keras. A last batch that is smaller than the others is
filled up with its own examples, which keeps shapes static; they do not count.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tf_lars.errors import InputError


class FitBatch(NamedTuple):
    """A part of a global batch.

    Attributes:
      element: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
      real: Whether each example counts, float32 `[examples]`: 1, or 0 for a repeated one.
      fill: Share of the global batch that counts, float32 `[examples]`, equal for all.
    """

    element: Any
    real: tf.Tensor
    fill: tf.Tensor


def part_of_worker(
    context: tf.distribute.InputContext, global_batch_size: int
) -> Callable[[Any], FitBatch]:
    """Returns a function from a global batch to a worker's part of it.

    The batch may have fewer examples than `global_batch_size`; the part always has its share.
    """
    share = global_batch_size // context.num_input_pipelines
    place = tf.range(share) + context.input_pipeline_id * share

    @tf.autograph.experimental.do_not_convert
    def part(*element: Any) -> FitBatch:
        one = element if len(element) > 1 else element[0]
        rows = tf.shape(tf.nest.flatten(one)[0])[0]
        check = tf.debugging.Assert(
            (rows > 0) & (rows <= global_batch_size),
            [
                "InputError: A batch must have as many examples as the first one, and only the "
                "last one fewer. Received:",
                rows,
                f"instead of {global_batch_size}. Set batch_size or batch anew.",
            ],
        )
        with tf.control_dependencies([check]):
            index = place % rows

        def take(t: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.gather(t, index), [share, *t.shape[1:]])

        fill = tf.cast(rows, tf.float32) / global_batch_size
        return FitBatch(
            tf.nest.map_structure(take, one),
            tf.cast(place < rows, tf.float32),
            tf.fill([share], fill),
        )

    return part


def of_replicas(
    batches: tf.data.Dataset, context: tf.distribute.InputContext, global_batch_size: int
) -> tf.data.Dataset:
    """Returns one worker's part of a dataset of global batches, one element per replica."""
    parts = batches.map(part_of_worker(context, global_batch_size), num_parallel_calls=2)
    if context.num_replicas_in_sync > context.num_input_pipelines:
        share = global_batch_size // context.num_replicas_in_sync
        parts = parts.rebatch(share, drop_remainder=True)
    return parts.prefetch(2)


def class_weighter(class_weight: Mapping[int, float] | None) -> Callable[..., Any]:
    """Returns a function that multiplies the sample weights of an element by its class's weight.

    Args:
      class_weight: Weight of each class, 1 for classes that it lacks. The class of an example is
        its target, or the position of the largest value in a target with several.

    Raises:
      InputError: The targets are not those of one output, or the weights are not numbers.
    """
    if not class_weight:
        return lambda *element: element if len(element) > 1 else element[0]
    if not all(isinstance(k, int) and k >= 0 for k in class_weight):
        raise InputError(
            "class_weight must be a dictionary from classes, counted from 0, to weights. Received: "
            f"{class_weight!r}."
        )
    weights = tf.constant([float(class_weight.get(i, 1.0)) for i in range(max(class_weight) + 1)])

    # Otherwise an InputError comes out as an error of AutoGraph.
    @tf.autograph.experimental.do_not_convert
    def weigh(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any, tf.Tensor]:
        if tf.nest.is_nested(y) or y is None:
            raise InputError(
                "class_weight needs the targets of one output. Received: "
                f"{'none' if y is None else 'several'}. Use sample_weight."
            )
        several = y.shape.rank > 1 and y.shape[-1] != 1
        classes = tf.argmax(y, -1) if several else tf.reshape(tf.cast(y, tf.int64), [-1])
        known = tf.clip_by_value(classes, 0, len(weights) - 1)
        weight = tf.where(classes == known, tf.gather(weights, known), 1.0)
        if sample_weight is not None:
            weight *= tf.cast(sample_weight, tf.float32)
        return x, y, weight

    return weigh

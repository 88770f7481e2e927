"""A replica's part of a global batch, as the steps of training and evaluation see it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_lars.data.fit_inputs.fit_batch import FitBatch


class Batch(NamedTuple):
    """A replica's part of a global batch; all but `x` may be None.

    Attributes:
      x: Inputs.
      y: Targets.
      sample_weight: Weights of the examples in losses and weighted metrics.
      real: 1 for each example that counts and 0 for padding, float32 `[examples]`; None if all
        count.
      fill: Share of the global batch that counts, float32 `[examples]`, equal for all.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    real: tf.Tensor | None = None
    fill: tf.Tensor | None = None

    @property
    def size(self) -> int:
        """Number of examples, padding included."""
        return tf.nest.flatten(self.x)[0].shape[0]

    @property
    def counted(self) -> tf.Tensor | float:
        """Number of examples that count, as this replica's equal share of the global number."""
        return float(self.size) if self.fill is None else self.size * self.fill[0]

    def without_padding(self) -> "Batch":
        """Returns the batch as one of which every example counts."""
        return self._replace(real=None, fill=None)


Unpack = Callable[[Any], Batch]
"""Function that turns an element of the data into a `Batch`, on the device."""


def unpacker(prepare_batch: Callable[[Any], tuple[Any, Any, Any]]) -> Unpack:
    """Returns the function for elements that `prepare_batch` turns into `(x, y, sample_weight)`."""

    def unpack(element: Any) -> Batch:
        if isinstance(element, FitBatch):
            return Batch(*prepare_batch(element.element), element.real, element.fill)
        return Batch(*prepare_batch(element))

    return unpack

"""Statistics of each variable in the last LARS step, kept on the device until they are read."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tf_lars.optimizers.variables import variable_path


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one variable in the last step.

    Attributes:
        trust_ratio: r; 1 for a variable excluded from adaptation.
        weight_norm: |w| before the step.
        gradient_norm: |g| after summing over the replicas, accumulation and clipping.
    """

    trust_ratio: float
    weight_norm: float
    gradient_norm: float


class LayerRecords:
    """Variables that hold the statistics.

    They are not part of the optimizer's state: checkpoints are the same with and without them. This
    is therefore a plain object, which hides them from the tracking of Keras and TensorFlow.

    Args:
        norms: Whether to record the norms as well, which have to be computed for it.
    """

    def __init__(self, norms):
        self.norms = norms
        self._paths = []
        self._records = []

    def build(self, variables):
        """Creates a record for each variable: its trust ratio, and its norms if they are wanted."""
        self._paths = [variable_path(v) for v in variables]
        shape = (3,) if self.norms else (1,)
        self._records = [
            keras.Variable("ones", shape=shape, dtype="float32", trainable=False) for _ in variables
        ]

    def record(self, index, trust_ratio, *norms):
        """Assigns the record of variable `index`, in the graph, on the caller's device."""
        row = [tf.cast(x, tf.float32) for x in (trust_ratio, *norms)]
        self._records[index].value.assign(tf.stack(row))

    def read(self):
        """Returns a `LayerStatistics` for each variable path."""
        return {
            path: LayerStatistics(*map(float, record.numpy()))
            for path, record in zip(self._paths, self._records, strict=True)
        }

    def trust_ratios(self):
        """Returns the trust ratio of each variable, float32 `[variables]`."""
        return np.array([record.numpy()[0] for record in self._records])

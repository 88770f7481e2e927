"""What LARS saw in each variable at its last step, kept on the device until somebody reads it."""

import dataclasses

import keras
import tensorflow as tf

from tf_lars.optimizers.variables import variable_path


@dataclasses.dataclass(frozen=True)
class LayerStatistics:
    """One variable at the last step.

    Attributes:
        trust_ratio: r; 1 for a variable excluded from adaptation.
        weight_norm: |w| before the step.
        gradient_norm: |g|, summed over the replicas, accumulated and clipped.
    """

    trust_ratio: float
    weight_norm: float
    gradient_norm: float


class LayerRecords:
    """The variables that hold the statistics.

    They are no state of the optimizer: a checkpoint is the same with and without them. So this is
    a plain object, which hides them from the tracking of Keras and TensorFlow.
    """

    def __init__(self):
        self._paths = []
        self._records = []

    def build(self, variables):
        """Makes one record of three numbers for each variable."""
        self._paths = [variable_path(v) for v in variables]
        self._records = [
            keras.Variable("zeros", shape=(3,), dtype="float32", trainable=False) for _ in variables
        ]

    def record(self, index, trust_ratio, weight_norm, gradient_norm):
        """Assigns the record of variable `index`, in the graph, on the device of the caller."""
        row = [tf.cast(x, tf.float32) for x in (trust_ratio, weight_norm, gradient_norm)]
        self._records[index].value.assign(tf.stack(row))

    def read(self):
        """Returns {path: LayerStatistics}."""
        return {
            path: LayerStatistics(*map(float, record.numpy()))
            for path, record in zip(self._paths, self._records, strict=True)
        }

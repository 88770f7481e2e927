"""Statistics of batch normalisation for evaluation and checkpoints.

Each replica normalises its own part of the batch and so has its own moving averages. They also lag
behind the weights: after 30 large steps on the digits, evaluation with them gave 88.6 %, and 98 %
with statistics estimated from the final weights.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.distribute.replicas import slice_batch
from tf_lars.private_api import call_model, layers_of


def move_statistics(
    layer: keras.layers.BatchNormalization, mean: tf.Tensor, variance: tf.Tensor
) -> None:
    """Moves a layer's moving statistics towards those of a batch, in the dtype of the latter."""
    for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        before = tf.cast(tf.convert_to_tensor(moving), value.dtype)
        moving.assign(before * layer.momentum + value * (1.0 - layer.momentum))


def batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalisation layers of a model that are not frozen, nested ones too."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in layers_of(model) if isinstance(layer, kind) and layer.trainable]


class BatchNormStatistics:
    """Moving means and variances of a model under a strategy.

    Args:
      model: Built model; its trainable weights are never changed.
      strategy: Strategy in whose scope the model was created.
      inputs_of: Function that turns an element of the training data into the model's inputs.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        inputs_of: Callable[[Any], Any],
    ):
        self._model = model
        self._strategy = strategy
        self._inputs_of = inputs_of
        self._average = tf.function(lambda: strategy.run(self._average_in_replica), autograph=False)
        self._estimate = tf.function(self._estimate_in_graph)

    @property
    def layers(self) -> list[keras.layers.BatchNormalization]:
        """The model's batch normalisation layers, including those in nested models.

        Frozen ones (`trainable=False`) are left out: Keras never moves their statistics.
        """
        return batch_norm_layers(self._model)

    def average(self) -> None:
        """Replaces each replica's statistics with their mean over the replicas."""
        if self.layers and self._strategy.num_replicas_in_sync > 1:
            self._average()

    def estimate(self, dataset: Iterable, steps: int, parts: int = 1) -> None:
        """Sets the statistics to their mean over batches under the current weights.

        Means and variances are averaged over batches and replicas with equal weights
        ("precise batch normalisation", Wu and Johnson 2021, section 3).

        Args:
          dataset: Distributed training data with at least `steps` batches.
          steps: Number of global batches.
          parts: Number of micro-batches, each normalised separately, in a replica's share.
        """
        if self.layers:
            self._estimate(iter(dataset), tf.constant(steps), parts)
            self.average()

    def _average_in_replica(self) -> None:
        variables = [v for layer in self.layers for v in (layer.moving_mean, layer.moving_variance)]
        means = tf.distribute.get_replica_context().all_reduce(
            "MEAN", [tf.identity(variable) for variable in variables]
        )
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    def _estimate_in_graph(self, iterator, steps, parts) -> None:
        def reset_non_finite():  # momentum 0 discards all other values, but 0 * NaN is NaN
            for layer in self.layers:
                for variable, start in ((layer.moving_mean, 0.0), (layer.moving_variance, 1.0)):
                    value = tf.identity(variable)
                    variable.assign(tf.where(tf.math.is_finite(value), value, start))

        def forward(batch, i):
            x = self._inputs_of(batch)
            if parts > 1:
                x = slice_batch(x, i, tf.nest.flatten(x)[0].shape[0] // parts)
            call_model(self._model, x, training=True)

        self._strategy.run(reset_non_finite)
        for step in tf.range(steps):
            batch = next(iterator)
            for i in tf.range(parts):
                # With momentum k / (k + 1), a moving average is the mean of all batches so far.
                k = tf.cast(step * parts + i, tf.float32)
                with _momentum(self.layers, k / (k + 1)):
                    self._strategy.run(forward, args=(batch, i))


@contextlib.contextmanager
def _momentum(layers: list[keras.layers.BatchNormalization], value: tf.Tensor) -> Iterator[None]:
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = value
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum

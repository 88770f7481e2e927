"""Statistics of batch normalisation, made fit for evaluation and for checkpoints.

Each replica normalises its own part of the batch, so its moving averages are its own; and they
trail behind the weights: after 30 large steps on the digits, evaluation with them gave 88.6 % and
with statistics estimated from the final weights 98 %.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
import tensorflow as tf

from tf_lars.distribute.replicas import slice_batch
from tf_lars.private_api import call_model, layers_of


class BatchNormStatistics:
    """The moving means and variances of a model under a strategy.

    Args:
      model: built; its trainable weights stay as they are.
      strategy: the one in whose scope the model was made.
      prepare_batch: turns an element of the training data into `(x, y, sample_weight)`.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, prepare_batch: Callable
    ):
        self._model = model
        self._strategy = strategy
        self._prepare_batch = prepare_batch
        self._average = tf.function(lambda: strategy.run(self._average_in_replica))
        self._estimate = tf.function(self._estimate_in_graph)

    @property
    def layers(self) -> list[keras.layers.BatchNormalization]:
        """The model's layers of batch normalisation, those in nested models included."""
        kind = keras.layers.BatchNormalization
        return [layer for layer in layers_of(self._model) if isinstance(layer, kind)]

    def average(self) -> None:
        """Replaces the statistics on each replica by their mean over the replicas."""
        if self.layers and self._strategy.num_replicas_in_sync > 1:
            self._average()

    def estimate(self, dataset: Iterable, steps: int, parts: int = 1) -> None:
        """Sets the statistics to the mean over batches under the present weights.

        Means and variances are averaged over batches and replicas, each with equal weight
        ("precise batch normalisation", Wu and Johnson 2021, section 3).

        Args:
          dataset: distributed training data with at least `steps` batches.
          steps: number of global batches.
          parts: micro-batches, each normalised by itself, that a replica's share is taken in.
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
        def forget_what_is_not_finite():  # momentum 0 forgets the rest, but 0 * NaN is NaN
            for layer in self.layers:
                for variable, start in ((layer.moving_mean, 0.0), (layer.moving_variance, 1.0)):
                    value = tf.identity(variable)
                    variable.assign(tf.where(tf.math.is_finite(value), value, start))

        def forward(batch, i):
            x = self._prepare_batch(batch)[0]
            if parts > 1:
                x = slice_batch(x, i, tf.nest.flatten(x)[0].shape[0] // parts)
            call_model(self._model, x, training=True)

        self._strategy.run(forget_what_is_not_finite)
        for step in tf.range(steps):
            batch = next(iterator)
            for i in tf.range(parts):
                # With momentum k / (k + 1) a moving average is the plain mean of all so far.
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

"""Exact evaluation: counts every example once, on any number of replicas, with static shapes."""

from collections.abc import Callable, Iterable
from typing import Protocol

import keras
import tensorflow as tf

from tf_lars.distribute.replicas import distribute
from tf_lars.private_api import (
    call_model,
    compute_loss,
    loss_tracker,
    output_loss_metrics,
    update_metrics,
)


class EvaluationData(Protocol):
    """Data for an `Evaluator`, such as `tf_lars.data.image_input.EvaluationInput`."""

    @property
    def num_examples(self) -> int:
        """Number of examples to count."""

    @property
    def max_bad_records(self) -> int:
        """Number of examples that may be missing."""

    @property
    def steps(self) -> int:
        """Number of global batches that hold all examples."""

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns one worker's batches: `steps` batches for each local replica.

        Padding has sample weight 0; all workers have the same number of batches.
        """


class Evaluator:
    """Evaluator of a compiled model.

    Args:
      model: Compiled Keras model.
      strategy: Strategy in whose scope the model was created.
      prepare_batch: Function that turns an element of the data into `(x, y, sample_weight)`.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, prepare_batch: Callable
    ):
        self._model = model
        self._strategy = strategy
        self._prepare_batch = prepare_batch
        self._loop = tf.function(self._loop_in_graph)
        self._data: EvaluationData | None = None
        self._dataset: Iterable = ()

    def run(self, data: EvaluationData) -> dict[str, float]:
        """Returns `loss`, the model's metrics, and `examples`, the number of examples counted.

        Raises:
          RuntimeError: If the count over all replicas exceeds the number of examples, or falls
            short of it by more than the bad records that may be skipped.
        """
        if data is not self._data:  # building the pipeline takes longer than a small evaluation
            self._data, self._dataset = data, distribute(self._strategy, data.dataset)
        self._model.reset_metrics()
        results = self._loop(iter(self._dataset), tf.constant(data.steps))
        logs = {name: float(value) for name, value in results.items()}
        logs["examples"] = round(logs["examples"])
        missing = data.num_examples - logs["examples"]
        if not 0 <= missing <= data.max_bad_records:
            raise RuntimeError(
                f"Evaluation must count each of the {data.num_examples} examples once, except at "
                f"most {data.max_bad_records} bad records. Received: {logs['examples']} examples "
                "counted over all replicas."
            )
        return logs

    def _loop_in_graph(self, iterator, steps):
        for _ in tf.range(steps):
            self._strategy.run(self._step, args=(next(iterator),))
        # float32 counts exactly up to 16.7 million examples.
        count = tf.convert_to_tensor(loss_tracker(self._model).count)
        # Losses of the outputs of a model with several: Keras would count padding in them.
        outputs = {
            metric.name: tf.convert_to_tensor(metric.total) / count
            for metric in output_loss_metrics(self._model)
        }
        return self._model.get_metrics_result() | outputs | {"examples": count}

    def _step(self, batch) -> None:
        model = self._model
        x, y, sample_weight = self._prepare_batch(batch)
        batch_size = tf.shape(tf.nest.flatten(x)[0])[0]
        if sample_weight is None:
            sample_weight = tf.ones([batch_size])
        y_pred = call_model(model, x, training=False)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = replicas * compute_loss(model, x, y, y_pred, sample_weight, training=False)
        # Keras divides the weighted sum by the batch size; the mean over the real examples needs
        # their number instead. Penalties of layers are not sums over examples.
        penalties = tf.add_n(model.losses) if model.losses else 0.0
        real = tf.reduce_sum(sample_weight)
        data_loss = (loss - penalties) * tf.cast(batch_size, loss.dtype)
        mean = tf.math.divide_no_nan(data_loss, tf.cast(real, loss.dtype)) + penalties
        loss_tracker(model).update_state(mean, sample_weight=real)
        update_metrics(model, y, y_pred, sample_weight)

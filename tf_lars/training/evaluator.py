"""Exact evaluation: counts every example once, on any number of replicas, with static shapes."""

from collections.abc import Iterable
from typing import Protocol

import keras
import tensorflow as tf

from tf_lars.data.input_errors import told_by_input
from tf_lars.distribute.replicas import distribute
from tf_lars.private_api import (
    call_model,
    finish_assignments,
    loss_tracker,
    results_of,
    update_metrics,
)
from tf_lars.training.batch import Batch, Unpack
from tf_lars.training.mean_loss import averaged_over, mean_loss


class EvaluationData(Protocol):
    """Data for an `Evaluator`, such as `tf_lars.data.image_input.EvaluationInput`."""

    @property
    def num_examples(self) -> int | None:
        """Number of examples to count; None if it is unknown."""

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
      unpack: Function that turns an element of the data into a `Batch`.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy, unpack: Unpack):
        self._model = model
        self._strategy = strategy
        self._unpack = unpack
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
        finish_assignments()
        with told_by_input():
            results = self._loop(iter(self._dataset), tf.constant(data.steps))
        logs = {name: float(value) for name, value in results.items()}
        logs["examples"] = round(logs["examples"])
        if data.num_examples is None:
            return logs
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
        return results_of(self._model) | {"examples": count}

    @tf.autograph.experimental.do_not_convert
    def _step(self, element) -> None:
        model = self._model
        batch = _with_padding(self._unpack(element))
        with averaged_over(batch, one_pass=True):
            y_pred = call_model(model, batch.x, training=False)
            loss = mean_loss(model, batch, y_pred, training=False)
        loss_tracker(model).update_state(loss, sample_weight=batch.counted)
        update_metrics(model, batch.y, y_pred, batch.sample_weight, batch.real)


def _with_padding(batch: Batch) -> Batch:
    """Returns a batch that says which examples count.

    The data of this package mark padding by a sample weight of 0. Each replica's part counts by
    itself then.
    """
    if batch.fill is not None:
        return batch
    examples = tf.shape(tf.nest.flatten(batch.x)[0])[0]
    if batch.sample_weight is None:
        real = tf.ones([examples])
    else:
        real = tf.cast(batch.sample_weight, tf.float32)
    fill = tf.fill([examples], tf.reduce_mean(real))
    return batch._replace(sample_weight=None, real=real, fill=fill)

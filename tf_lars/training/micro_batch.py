"""Finds the largest micro-batch with which no replica runs out of memory, by trial."""

import math
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_lars.distribute.grouped_batch_norm import group_sizes
from tf_lars.distribute.replicas import mean_over_workers
from tf_lars.errors import InputError
from tf_lars.optimizers.lars_rule import densify
from tf_lars.training.step import TrainingStep


def largest_that_fits(
    step: TrainingStep,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    spec: Any,
    share: int,
) -> int:
    """Returns the largest divisor of a number of examples that fits into memory.

    Tries each divisor, largest first, with a batch of zeros: a forward and backward pass and a
    second copy of the gradients, because the all-reduce makes one. All workers try the same size
    together and take the first that fits on all of them. The model is left unchanged.

    Args:
      step: Training step that computes the gradients; its `micro_batch_size` is set to the
        returned size.
      model: Model, built like its optimizer. Its layers must not wait for other replicas, which
        may have run out of memory.
      strategy: Strategy in whose scope the model was created.
      spec: Specification of one replica's element of the data.
      share: Number that the size must divide: the examples of each replica in the global batch,
        or the largest common divisor of those in all batches of a schedule.

    Raises:
      InputError: If a single example does not fit, or no batch that groups of batch normalisation
        divide.
    """
    least = math.lcm(*group_sizes(model))  # 1 without groups
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    before = [variable.numpy() for variable in variables]
    try:
        sizes = [share // parts for parts in range(1, share + 1) if share % parts == 0]
        for size in (one for one in sizes if one % least == 0):
            step.micro_batch_size = size
            if mean_over_workers(strategy, [_fits(step, strategy, spec)]) == [1.0]:
                logging.info("Micro-batches of %d examples fit, of %d.", size, share)
                return size
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    if least > 1:
        raise InputError(
            f"The network and the {least:,} examples that batch normalisation normalises together "
            "must fit into a device's memory. Received: a model for which they do not. Use smaller "
            "groups, smaller images, a smaller model or mixed precision."
        )
    raise InputError(
        "The network and one example must fit into a device's memory. Received: a model for which "
        "they do not. Use smaller images, a smaller model or mixed precision."
    )


def _fits(step: TrainingStep, strategy: tf.distribute.Strategy, spec: Any) -> bool:
    def replica(batch):
        gradients = [densify(g, g.shape) for g in step.gradients(batch) if g is not None]
        # Both the gradients and a copy are summed, so that neither can be optimised away.
        sums = [tf.reduce_sum(tf.cast(g, tf.float32)) for g in gradients]
        copy = tf.concat([tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients], 0)
        return tf.reduce_sum(copy) + tf.add_n(sums)

    # Passed as an argument, because TensorFlow would fold operations on a constant.
    batch = tf.nest.map_structure(lambda t: tf.zeros(t.shape, t.dtype), spec)
    try:
        results = tf.function(lambda batch: strategy.run(replica, args=(batch,)))(batch)
        for result in strategy.experimental_local_results(results):
            result.numpy()
    except tf.errors.ResourceExhaustedError:
        return False
    return True

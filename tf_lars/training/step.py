"""Synchronous steps of training: gradients of the global batch, one all-reduce, one update."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.defaults import BYTES_PER_PACK, REDUCTION_DTYPES
from tf_lars.distribute.replicas import communication_options, slice_batch
from tf_lars.errors import InputError, require
from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import call_model, compute_loss, loss_tracker, update_metrics

Batch = tuple[Any, Any, Any]
"""`(x, y, sample_weight)`; the last two may be None."""


class TrainingStep:
    """Takes optimizer steps on global batches, each on all replicas or on none.

    A step that is not taken leaves no trace in the model, except on TPUs: what its forward pass has
    changed, such as moving averages of batch normalisation, is put back.

    Every replica computes the gradients of its share as parts of the mean over the global batch;
    one all-reduce sums them. The sums are the same on all replicas, and so is the verdict on them:
    where one is not finite, no replica takes the step. (An optimizer that scales the loss comes to
    the same verdict by itself, because it has its scale to lower.)

    Args:
      model: compiled and, before the first call, built.
      strategy: the one in whose scope the model was made.
      prepare_batch: turns an element of the data into `(x, y, sample_weight)` on the device.
      micro_batch_size: examples that a replica takes through the network at once; None for all.
      reduction_dtype: of the gradients on their way between replicas: "bfloat16" halves the bytes
        and rounds each summand to 8 bits of precision; None keeps their own.
      bytes_per_pack: gradients are all-reduced in packs of at most this size; 0 for one pack.
      jit_compile: compile the forward and backward pass of each replica with XLA.
      in_one_program: run each step, with its update, as one program of the replicas, and take a
        bad step too: see `repeat`. By default so on TPUs, where what passes from one program to
        the next goes through the host.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        prepare_batch: Callable[[Any], Batch],
        *,
        micro_batch_size: int | None = None,
        reduction_dtype: str | None = None,
        bytes_per_pack: int = BYTES_PER_PACK,
        jit_compile: bool = False,
        in_one_program: bool | None = None,
    ):
        if reduction_dtype not in (None, *REDUCTION_DTYPES):
            raise InputError(
                "reduction_dtype must be float32 or bfloat16, or None for that of the gradients. "
                f"Received: {reduction_dtype!r}."
            )
        require(bytes_per_pack >= 0, "bytes_per_pack", "0 or above", bytes_per_pack)
        self.micro_batch_size = micro_batch_size
        self._model = model
        self._strategy = strategy
        self._prepare_batch = prepare_batch
        self._reduction_dtype = reduction_dtype
        self._options = communication_options(bytes_per_pack)
        self.scales_loss = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        self._forward_and_backward = (
            tf.function(self._run_network, jit_compile=True) if jit_compile else self._run_network
        )
        if in_one_program is None:
            in_one_program = isinstance(strategy, tf.distribute.TPUStrategy)
        self.skips_bad_steps = not in_one_program or self.scales_loss
        self._in_one_program = in_one_program
        # Each stands twice in the graph, and is traced once.
        self._gradients_of_all = tf.function(self._reduced_gradients)
        self._update_all = tf.function(self._updated_weights)
        self._step_of_all = tf.function(self._whole_step)
        self._put_back_all = tf.function(self._put_back)

    def repeat(self, iterator: Iterator, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes steps until one has gradients that are not finite; that one is skipped.

        Where `skips_bad_steps` is false it is taken, and the weights are of no more use.

        Called in the graph, outside of the replicas. The condition of the loop is what skips a
        step, so its body begins with the update that the gradients before were found good for. A
        conditional in the body would cost a node for each variable of the model, in every step.

        Args:
          iterator: over a distributed dataset.
          steps: int32 scalar, how many to take.

        Returns:
          `(done, finite)`: how many batches were used, and a bool for each trainable variable,
          whether its gradient of the last batch was finite. If one was not, the last of the steps
          done was skipped.
        """
        if self._in_one_program:
            finite = self._step_of_all(next(iterator))
            done = tf.constant(1)
            while tf.logical_and(done < steps, tf.reduce_all(finite)):
                finite = self._step_of_all(next(iterator))
                done += 1
            return done, finite
        before, reduced, finite = self._gradients_of_all(next(iterator))
        done = tf.constant(1)
        while tf.logical_and(done < steps, tf.reduce_all(finite)):
            self._update_all(reduced)
            before, reduced, finite = self._gradients_of_all(next(iterator))
            done += 1
        if self.scales_loss or tf.reduce_all(finite):
            self._update_all(reduced)
        if not tf.reduce_all(finite):
            self._put_back_all(before)
        return done, finite

    def gradients(self, batch: Any) -> list:
        """Returns a replica's summand of the gradients: None where the loss does not depend on it.

        Called in a replica. The model's metrics take the batch into account.
        """
        batch = self._prepare_batch(batch)
        size = tf.nest.flatten(batch[0])[0].shape[0]
        parts = size // (self.micro_batch_size or size)
        if parts == 1:
            return self._gradients(batch, 1)
        variables = self._model.trainable_variables
        # Zeros as constants would be kept in the graph, each as large as its variable.
        total = [tf.raw_ops.Empty(shape=v.shape, dtype=v.dtype, init=True) for v in variables]
        for i in tf.range(parts):
            more = self._gradients(slice_batch(batch, i, size // parts), parts)
            total = [t if g is None else t + g for t, g in zip(total, more, strict=True)]
        return total

    def _reduced_gradients(self, batch):
        def replica(batch):
            before = [tf.identity(variable) for variable in self._changed_by_forward_pass()]
            return before, *self._reduced_in_replica(batch)

        before, reduced, finite = self._strategy.run(replica, args=(batch,))
        return before, reduced, self._strategy.experimental_local_results(finite)[0]

    def _whole_step(self, batch):
        finite = self._strategy.run(self._whole_step_in_replica, args=(batch,))
        return self._strategy.experimental_local_results(finite)[0]

    def _whole_step_in_replica(self, batch):
        reduced, finite = self._reduced_in_replica(batch)
        self._update_in_replica(reduced)
        return finite

    def _reduced_in_replica(self, batch) -> tuple[dict[int, tf.Tensor], tf.Tensor]:
        """Returns the sums of the gradients over the replicas, and whether each is finite.

        The sums are keyed by the index of their variable: a variable on which the loss does not
        depend has no gradient, and a replica cannot return None.
        """
        gradients = {i: g for i, g in enumerate(self.gradients(batch)) if g is not None}
        sums = self._all_reduce(list(gradients.values()))
        reduced = dict(zip(gradients, sums, strict=True))
        number = len(self._model.trainable_variables)
        sizes = [_size(reduced[i]) if i in reduced else 0.0 for i in range(number)]
        return reduced, tf.math.is_finite(tf.stack(sizes))

    def _changed_by_forward_pass(self) -> list[tf.Variable]:
        """Returns the variables of which each replica has its own."""
        # What the replicas assign to others is aggregated.
        return [
            variable
            for variable in map(native_variable, self._model.non_trainable_variables)
            if variable.aggregation == tf.VariableAggregation.NONE
        ]

    def _put_back(self, before) -> None:
        def replica(before):
            for variable, value in zip(self._changed_by_forward_pass(), before, strict=True):
                variable.assign(value)

        self._strategy.run(replica, args=(before,))

    def _updated_weights(self, reduced) -> None:
        self._strategy.run(self._update_in_replica, args=(reduced,))

    def _update_in_replica(self, reduced: dict[int, tf.Tensor]) -> None:
        variables = self._model.trainable_variables
        self._model.optimizer.apply([reduced.get(i) for i in range(len(variables))], variables)

    def _gradients(self, batch: Batch, parts: int) -> list:
        """Returns the gradients of one part of the replica's batch, as its share of the mean."""
        loss, y_pred, gradients = self._forward_and_backward(*batch, parts)
        loss *= tf.distribute.get_strategy().num_replicas_in_sync
        # One loss that is not finite would hide all others of the epoch, and its step is skipped.
        finite = tf.math.is_finite(loss)
        loss_tracker(self._model).update_state(
            tf.where(finite, loss, 0.0), sample_weight=tf.cast(finite, tf.float32)
        )
        _, y, sample_weight = batch
        update_metrics(self._model, y, y_pred, sample_weight)
        return gradients

    def _run_network(self, x, y, sample_weight, parts):
        model = self._model
        with tf.GradientTape() as tape:
            y_pred = call_model(model, x, training=True)
            # Keras divides by the number of replicas: the sum over replicas is the global mean.
            loss = compute_loss(model, x, y, y_pred, sample_weight, training=True)
            scaled = model.optimizer.scale_loss(loss / parts)
        return loss, y_pred, tape.gradient(scaled, model.trainable_variables)

    def _all_reduce(self, gradients: list) -> list:
        """Sums the gradients over the replicas, in one all-reduce."""
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            return gradients
        if self._reduction_dtype is None:
            return context.all_reduce("SUM", gradients, self._options)
        dense = [densify(g, g.shape) for g in gradients]
        small = [tf.cast(g, self._reduction_dtype) for g in dense]
        summed = context.all_reduce("SUM", small, self._options)
        return [tf.cast(s, g.dtype) for s, g in zip(summed, dense, strict=True)]


def _size(gradient) -> tf.Tensor:
    """Returns a float32 that is finite if the gradient is, and its norm within range.

    One pass over memory, against two and a tensor of flags for `tf.math.is_finite`.
    """
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    if values.dtype.size < 4:
        values = tf.cast(values, tf.float32)
    return tf.cast(tf.nn.l2_loss(values), tf.float32)

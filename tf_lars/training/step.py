"""Synchronous training steps: gradients of the global batch, one all-reduce, one update."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.defaults import BYTES_PER_PACK, REDUCTION_DTYPES
from tf_lars.distribute.replicas import communication_options, slice_batch
from tf_lars.errors import InputError, require
from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import call_model, loss_tracker, update_metrics
from tf_lars.training.batch import Batch, Unpack
from tf_lars.training.mean_loss import averaged_over, mean_loss


class TrainingStep:
    """Optimizer step on a global batch, taken on all replicas or on none.

    A skipped step leaves no trace in the model, except on TPUs: whatever its forward pass changed,
    such as moving averages of batch normalisation, is restored.

    Each replica computes the gradients of its share as summands of the mean over the global batch;
    one all-reduce sums them. The sums are the same on all replicas, and so is the decision: if one
    is not finite, no replica takes the step. (An optimizer that scales the loss makes the same
    decision itself, because it has to lower its scale.)

    Args:
      model: Compiled model, built before the first call.
      strategy: Strategy in whose scope the model was created.
      unpack: Function that turns an element of the data into a `Batch` on the device.
      micro_batch_size: Number of examples that a replica processes at a time; None for all.
      reduction_dtype: Type of the gradients during the all-reduce: "bfloat16" halves the bytes and
        rounds each summand to 8 bits of precision; None keeps the gradients' own type.
      bytes_per_pack: Maximum size of the packs in which gradients are all-reduced; 0 for one pack.
      jit_compile: Whether to compile each replica's forward and backward pass with XLA.
      in_one_program: Whether to run each step, including its update, as one program of the
        replicas, and to take bad steps too: see `repeat`. True by default on TPUs, where values
        pass from one program to the next through the host.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        unpack: Unpack,
        *,
        micro_batch_size: int | None = None,
        reduction_dtype: str | None = None,
        bytes_per_pack: int = BYTES_PER_PACK,
        jit_compile: bool = False,
        in_one_program: bool | None = None,
    ):
        if reduction_dtype not in (None, *REDUCTION_DTYPES):
            raise InputError(
                "reduction_dtype must be float32, bfloat16, or None for the gradients' own type. "
                f"Received: {reduction_dtype!r}."
            )
        require(bytes_per_pack >= 0, "bytes_per_pack", "0 or above", bytes_per_pack)
        self.micro_batch_size = micro_batch_size
        self._model = model
        self._strategy = strategy
        self._unpack = unpack
        self._jit_compile = jit_compile
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
        # Each occurs twice in the graph, but is traced once.
        self._gradients_of_all = tf.function(self._reduced_gradients)
        self._update_all = tf.function(self._updated_weights)
        self._step_of_all = tf.function(self._whole_step)
        self._put_back_all = tf.function(self._put_back)

    def repeat(self, iterator: Iterator, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes steps until one has gradients that are not finite; that one is skipped.

        If `skips_bad_steps` is false, that step is taken too, and leaves the weights useless.

        Must be called in a graph, outside the replicas. It is the loop condition that skips a step,
        so the loop body begins with the update for gradients that were already found finite. A
        conditional in the body would cost one node per model variable in every step.

        Args:
          iterator: Iterator over a distributed dataset.
          steps: int32 scalar, the number of steps to take.

        Returns:
          `(done, finite)`: the number of batches used, and a bool for each trainable variable,
          whether its gradient of the last batch was finite. If one was not, the last step was
          skipped.
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
        """Returns a replica's summands of the gradients, None for variables that have no gradient.

        Must be called in a replica. Updates the model's metrics with the batch.
        """
        batch = self._unpack(batch)
        size = batch.size
        parts = size // (self.micro_batch_size or size)
        if parts == 1:
            return self._gradients(batch, 1)
        variables = self._model.trainable_variables
        # Constant zeros would be stored in the graph, each as large as its variable.
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
        """Returns the gradients summed over the replicas, and whether each is finite.

        The sums are keyed by the index of their variable: some variables have no gradient, and a
        replica cannot return None.
        """
        gradients = {i: g for i, g in enumerate(self.gradients(batch)) if g is not None}
        sums = self._all_reduce(list(gradients.values()))
        reduced = dict(zip(gradients, sums, strict=True))
        number = len(self._model.trainable_variables)
        sizes = [_size(reduced[i]) if i in reduced else 0.0 for i in range(number)]
        return reduced, tf.math.is_finite(tf.stack(sizes))

    def _changed_by_forward_pass(self) -> list[tf.Variable]:
        """Returns the variables that have their own value on each replica."""
        # Assignments to all others are aggregated over the replicas.
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
        loss, y_pred, gradients = self._forward_and_backward(batch, parts)
        # A loss that is not finite would hide all others of the epoch, and its step is skipped.
        finite = tf.math.is_finite(loss)
        loss_tracker(self._model).update_state(
            tf.where(finite, loss, 0.0),
            sample_weight=tf.cast(finite, tf.float32) * batch.counted,
        )
        update_metrics(self._model, batch.y, y_pred, batch.sample_weight, batch.real)
        return gradients

    def _run_network(self, batch, parts):
        model = self._model
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        one_pass = parts == 1 and not self._jit_compile
        with tf.GradientTape() as tape, averaged_over(batch, one_pass=one_pass):
            y_pred = call_model(model, batch.x, training=True)
            loss = mean_loss(model, batch, y_pred, training=True)
            # The sum over replicas is the mean over the global batch.
            summand = loss if replicas == 1 else loss * tf.cast(1.0 / replicas, loss.dtype)
            scaled = model.optimizer.scale_loss(summand / parts)
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
    """Returns a float32 that is finite if the gradient is finite and its norm is in range.

    It takes one pass over memory; `tf.math.is_finite` takes two, and a tensor of flags.
    """
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    if values.dtype.size < 4:
        values = tf.cast(values, tf.float32)
    return tf.cast(tf.nn.l2_loss(values), tf.float32)

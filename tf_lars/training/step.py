"""Synchronous training steps: gradients of the global batch, one all-reduce, one update."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_lars.defaults import BYTES_PER_PACK, REDUCTION_DTYPES
from tf_lars.distribute.replicas import communication_options, slice_batch
from tf_lars.errors import InputError, require
from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import call_model, is_deterministic, loss_tracker, update_metrics
from tf_lars.tracking.noise_scale import DECAY
from tf_lars.training.batch import Batch, Unpack
from tf_lars.training.mean_loss import averaged_over, mean_loss


class StepsTaken(NamedTuple):
    """What `TrainingStep.repeat` returns.

    Attributes:
      done: Number of batches used, int32.
      finite: Whether the last batch's gradient of each trainable variable was finite, bool
        `[variables]`. If one was not, the last step was skipped.
      gradient_norms: Norms of these gradients, summed over the replicas, float32 `[variables]`.
      part_norms: `(steps, |g|^2, sum |g_i|^2)`, float32 `[3]`: the number of steps that count, and
        sums over them that decay by `noise_scale.DECAY` per step; the last one is of this worker's
        parts alone, as summands of the global gradient. Zeros if they are not observed.
      seconds: Seconds of all steps in waiting for the batch, the forward and backward pass, the
        all-reduce and the update, float64 `[4]`, on this worker; zeros on TPUs and
        where TensorFlow must be deterministic.
    """

    done: tf.Tensor
    finite: tf.Tensor
    gradient_norms: tf.Tensor
    part_norms: tf.Tensor
    seconds: tf.Tensor


class _Reduced(NamedTuple):
    """Gradients of a step: summed over the replicas, and what was seen on the way there.

    Attributes:
      before: What the forward pass has changed, as it was before.
      gradients: Gradients by the index of their variable.
      norms: Norms of the gradients, without the scale of the loss, float32 `[variables]`.
      part_squares: Sum of the squared norms of this worker's parts; 0 if they are not observed.
      counts: Whether the parts are of equal size, bool.
      times: When the batch had arrived, when the worker's own gradients were known and when the
        sums were, in seconds, float64 `[3]`.
    """

    before: Any
    gradients: dict[int, tf.Tensor]
    norms: tf.Tensor
    part_squares: tf.Tensor
    counts: tf.Tensor
    times: tf.Tensor


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
      observe_parts: Whether to compute the norms of the gradients of the parts of a batch.
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
        observe_parts: bool = False,
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
        self.unpack = unpack
        self._jit_compile = jit_compile
        self._observe_parts = observe_parts
        self._reduction_dtype = reduction_dtype
        self._options = communication_options(bytes_per_pack)
        self.scales_loss = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        self._forward_and_backward = (
            tf.function(self._run_network, jit_compile=True, autograph=False)
            if jit_compile
            else self._run_network
        )
        if in_one_program is None:
            in_one_program = isinstance(strategy, tf.distribute.TPUStrategy)
        self.skips_bad_steps = not in_one_program or self.scales_loss
        self._in_one_program = in_one_program
        # Each occurs twice in the graph, but is traced once. Like a step of Keras's `fit`, none is
        # converted by AutoGraph, which would take seconds.
        self._gradients_of_all = tf.function(self._reduced_gradients, autograph=False)
        self._update_all = tf.function(self._updated_weights, autograph=False)
        self._step_of_all = tf.function(self.whole_step, autograph=False)
        self._put_back_all = tf.function(self._put_back, autograph=False)

    def parts_of(self, share: int) -> int:
        """Returns the number of micro-batches of a replica's share of the batch."""
        return share // (self.micro_batch_size or share)

    def repeat(self, iterator: Iterator, steps: tf.Tensor) -> StepsTaken:
        """Takes steps until one has gradients that are not finite; that one is skipped.

        If `skips_bad_steps` is false, that step is taken too, and leaves the weights useless.

        Must be called in a graph, outside the replicas. It is the loop condition that skips a step,
        so the loop body begins with the update for gradients that were already found finite. A
        conditional in the body would cost one node per model variable in every step.

        Args:
          iterator: Iterator over a distributed dataset.
          steps: int32 scalar, the number of steps to take.
        """
        part_norms, seconds = tf.zeros([3]), tf.zeros([4], tf.float64)
        done = tf.constant(1)
        if self._in_one_program:
            norms, part_squares, counts = self._step_of_all(next(iterator))
            part_norms = self._with_step(part_norms, norms, part_squares, counts)
            while tf.logical_and(done < steps, tf.reduce_all(tf.math.is_finite(norms))):
                norms, part_squares, counts = self._step_of_all(next(iterator))
                part_norms = self._with_step(part_norms, norms, part_squares, counts)
                done += 1
            return StepsTaken(done, tf.math.is_finite(norms), norms, part_norms, seconds)
        updated = _now()
        step = self._gradients_of_all(next(iterator))
        part_norms = self._with_step(part_norms, step.norms, step.part_squares, step.counts)
        seconds += _durations(step.times[2], updated, step.times)
        while tf.logical_and(done < steps, tf.reduce_all(tf.math.is_finite(step.norms))):
            reduced_before = step.times[2]
            token = self._update_all(step.gradients)
            with tf.control_dependencies([token]):
                updated = _now()
            step = self._gradients_of_all(next(iterator))
            part_norms = self._with_step(part_norms, step.norms, step.part_squares, step.counts)
            seconds += _durations(reduced_before, updated, step.times)
            done += 1
        finite = tf.math.is_finite(step.norms)
        if self.scales_loss or tf.reduce_all(finite):
            self._update_all(step.gradients)
        if not tf.reduce_all(finite):
            self._put_back_all(step.before)
        return StepsTaken(done, finite, step.norms, part_norms, seconds)

    def _with_step(self, part_norms, norms, part_squares, counts) -> tf.Tensor:
        """Returns the decaying sums with one more step, if it counts."""
        if not self._observe_parts:
            return part_norms
        now = tf.stack([tf.reduce_sum(norms**2), part_squares])
        sums = DECAY * part_norms[1:] + (1 - DECAY) * now
        counts = tf.logical_and(counts, tf.reduce_all(tf.math.is_finite(sums)))
        return tf.where(counts, tf.concat([part_norms[:1] + 1, sums], axis=0), part_norms)

    def gradients(self, batch: Any) -> list:
        """Returns a replica's summands of the gradients, None for variables that have no gradient.

        Must be called in a replica. Updates the model's metrics with the batch.
        """
        return self._gradients_and_squares(self.unpack(batch))[0]

    def _gradients_and_squares(self, batch: Batch) -> tuple[list, tf.Tensor]:
        """Returns a replica's gradients, and the sum of the squared norms of its parts."""
        size = batch.size
        parts = self.parts_of(size)
        if parts == 1:
            gradients = self._gradients(batch, 1)
            return gradients, self._part_square(gradients)

        def add(i, total, squares):
            more = self._gradients(slice_batch(batch, i, size // parts), parts)
            total = [t if g is None else t + g for t, g in zip(total, more, strict=True)]
            return i + 1, total, squares + self._part_square(more)

        variables = self._model.trainable_variables
        # Constant zeros would be stored in the graph, each as large as its variable.
        zeros = [tf.raw_ops.Empty(shape=v.shape, dtype=v.dtype, init=True) for v in variables]
        first = (tf.constant(0), zeros, tf.constant(0.0))
        _, total, squares = tf.while_loop(lambda i, *_: i < parts, add, first)
        return total, squares

    def _part_square(self, gradients: list) -> tf.Tensor:
        if not self._observe_parts:
            return tf.constant(0.0)
        pairs = zip(gradients, self._model.trainable_variables, strict=True)
        # Where activations are large, TensorFlow's optimizer of memory turns a sum of more than two
        # tensors by `add_n` into one in place, which fails in the loop over the parts.
        return tf.reduce_sum(tf.stack([_square(g, v.shape) for g, v in pairs if g is not None]))

    def _reduced_gradients(self, batch) -> _Reduced:
        def replica(batch):
            before = [tf.identity(variable) for variable in self._changed_by_forward_pass()]
            return before, *self._reduced_in_replica(batch, timed=True)

        before, gradients, *seen = self._strategy.run(replica, args=(batch,))
        norms, part_squares, counts, times = map(self._strategy.experimental_local_results, seen)
        return _Reduced(
            before,
            gradients,
            norms[0],
            tf.add_n(part_squares),
            counts[0],
            tf.reduce_max(tf.stack(times), axis=0),
        )

    def whole_step(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes a step, bad or not, as one program of the replicas.

        Must be called in a graph, outside the replicas.

        Args:
          batch: Element of a distributed dataset.

        Returns:
          Norms of the gradients, summed over the replicas, float32 `[variables]`; the sum of the
          squared norms of this worker's parts; and whether these are of equal size.
        """
        seen = self._strategy.run(self._whole_step_in_replica, args=(batch,))
        norms, part_squares, counts = map(self._strategy.experimental_local_results, seen)
        return norms[0], tf.add_n(part_squares), counts[0]

    def _whole_step_in_replica(self, batch):
        gradients, *seen = self._reduced_in_replica(batch, timed=False)
        self._update_in_replica(gradients)
        return seen

    def _reduced_in_replica(self, element, *, timed: bool):
        """Returns the gradients summed over the replicas, and what `_Reduced` has after them.

        The sums are keyed by the index of their variable: some variables have no gradient, and a
        replica cannot return None.
        """
        if timed:
            arrived = _time_after([element])
            # A single thread would take the time when it has nothing else to do.
            with tf.control_dependencies([arrived]):
                element = tf.nest.map_structure(tf.identity, element, expand_composites=True)
        batch = self.unpack(element)
        own, part_squares = self._gradients_and_squares(batch)
        gradients = {i: g for i, g in enumerate(own) if g is not None}
        sums = self._all_reduce(list(gradients.values()))
        reduced = dict(zip(gradients, sums, strict=True))
        squares = tf.stack(
            [
                _square(reduced[i], variable.shape) if i in reduced else 0.0
                for i, variable in enumerate(self._model.trainable_variables)
            ]
        )
        scale = 1.0
        if self.scales_loss:
            scale = tf.convert_to_tensor(self._model.optimizer.dynamic_scale)
        norms = tf.sqrt(squares) / scale
        counts = tf.constant(True)
        if batch.fill is not None:  # padding makes parts of different sizes
            counts = tf.equal(batch.fill[0], 1)
        seen = [reduced, norms, part_squares / scale**2, counts]
        if timed:
            computed = _time_after(list(gradients.values()))
            seen.append(tf.stack([arrived, computed, _time_after([squares])]))
        return seen

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

    def _updated_weights(self, reduced) -> tf.Tensor:
        self._strategy.run(self._update_in_replica, args=(reduced,))
        return tf.constant(0)  # whose operation ends when the updates do

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


def _square(gradient, shape) -> tf.Tensor:
    """Returns the squared norm as a float32, finite if the gradient is and the square is in range.

    It takes one pass over memory; `tf.math.is_finite` takes two, and a tensor of flags.
    """
    values = densify(gradient, shape)
    if values.dtype.size < 4:
        values = tf.cast(values, tf.float32)
    return 2 * tf.cast(tf.nn.l2_loss(values), tf.float32)


# The loop, which AutoGraph converts, calls it: imports cannot be converted.
@tf.autograph.experimental.do_not_convert
def _now() -> tf.Tensor:
    """Returns the time in seconds as a float64; 0 where TensorFlow must be deterministic."""
    return tf.constant(0.0, tf.float64) if is_deterministic() else tf.timestamp()


def _time_after(tensors: list) -> tf.Tensor:
    """Returns `_now()` once tensors are known."""
    values = tf.nest.flatten(tensors, expand_composites=True)
    with tf.control_dependencies(values):
        probe = tf.reshape(values[0], [-1])[:1]
    # A GPU's operations end when they are launched, but copies to the host when they are done.
    with tf.device("/device:CPU:0"), tf.control_dependencies([tf.identity(probe)]):
        return _now()


def _durations(reduced_before, updated, times) -> tf.Tensor:
    """Returns seconds of waiting for the batch, computing, reducing and updating, float64 `[4]`.

    The batch is fetched while the weights are updated; only what comes after that is waiting.

    Args:
      reduced_before: When the sums of the step before were known, scalar.
      updated: When the weights were updated with these, scalar.
      times: See `_Reduced`.
    """
    arrived, computed, reduced = tf.unstack(times)
    begun = tf.maximum(arrived, updated)
    update = tf.maximum(updated - reduced_before, 0.0)
    return tf.stack([begun - updated, computed - begun, reduced - computed, update])

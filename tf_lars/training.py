"""The training loop: a compiled Keras model, trained synchronously on any number of replicas.

Keras's own `fit` crashes under MultiWorkerMirroredStrategy and runs one step per call; `Trainer`
runs many steps per call of one `tf.function`, with `strategy.run` inside, and the result is that
of one process on the whole global batch.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tf_lars import micro_batch, model_rules, random_state
from tf_lars.batch_norm import BatchNormStatistics
from tf_lars.checkpoints import CheckpointStore
from tf_lars.data import order
from tf_lars.distribute.strategy import BYTES_PER_PACK, agree, distribute, of_first_worker
from tf_lars.errors import DivergedError, InputError, Preempted
from tf_lars.evaluation import EvaluationData, Evaluator
from tf_lars.training_step import Batch, TrainingStep, gradients_reduced_by_caller
from tf_lars.weight_average import WeightAverage

LOOP_SECONDS = 2.0
"""How long one call of the loop should take where `steps_per_loop` is not given."""

MAX_SKIPPED_STEPS = 20
"""Steps in a row that a run skips before it ends; dynamic loss scaling needs a few to settle."""


class TrainingData(Protocol):
    """What `Trainer.fit` trains on; `tf_lars.data.imagenet.TrainingInput` is one."""

    @property
    def num_examples(self) -> int:
        """Examples in an epoch."""

    @property
    def global_batch_size(self) -> int:
        """Examples per optimizer step over all replicas."""

    @property
    def shape_changes(self) -> Sequence[int]:
        """Steps, each the end of an epoch, before which the shape of the batches changes."""

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns one worker's batches, one per local replica, for those steps.

        All have the shape of the first; nobody asks for steps beyond the next change.
        """


class Trainer:
    """Trains and evaluates a compiled Keras model under a tf.distribute strategy.

    The global batch is the only batch that counts: the loss is the mean over it, gradients are
    summed over the replicas in one all-reduce, and the optimizer's `iterations` counts optimizer
    steps. Gradients are clipped, where the optimizer does so, after they have been reduced. A step
    whose reduced gradients are not finite is skipped on all replicas, and counted; on TPUs it ends
    the run.

    Args:
      model: compiled, created in the strategy's scope. Losses must have the reduction
        "sum_over_batch_size", Keras's default, and give a value for each example; what a model's
        own `compute_loss` adds must be divided by the number of replicas, as Keras divides its
        losses. All metrics see the weights of an evaluation batch, so that padding counts nowhere.
      strategy: of `tf_lars.distribute.strategy.create`, or any synchronous strategy; by default
        the strategy in scope.
      prepare_batch: turns an element of the data into `(x, y, sample_weight)` on the device; by
        default an element is such a tuple already.
      micro_batch_size: examples that a replica takes through the network at once; it must divide
        the replica's share of the global batch, and by default is all of it. Gradients of the
        parts are summed before the one all-reduce, so the step is the same but for batch
        normalisation, which normalises each part by itself. "auto" takes the largest for which
        no replica runs out of memory.
      steps_per_loop: optimizer steps in each call of the `tf.function`. By default as many as
        take about two seconds, the same number on all workers.
      max_skipped_steps: how many steps in a row may be skipped before the run ends.
      evaluate_average: evaluate the exponential moving average of the weights, which an optimizer
        with `use_ema=True` keeps, instead of the weights. Statistics of batch normalisation are
        those of the weights in training, or, with `batch_norm_examples`, of the average.
      reduction_dtype: "bfloat16" halves the bytes of the all-reduce and rounds each replica's
        gradients to 8 bits of precision; by default they keep their own.
      bytes_per_pack: gradients are all-reduced in packs of at most this size; 0 for one pack.
      jit_compile: compile each replica's forward and backward pass with XLA. On CPUs it has been
        2 to 3.5 times slower.

    Raises:
      InputError: the model is not compiled or takes steps of its own, a loss has another
        reduction, the optimizer accumulates gradients, or it keeps no average that could be
        evaluated.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy | None = None,
        *,
        prepare_batch: Callable[[Any], Batch] | None = None,
        micro_batch_size: int | str | None = None,
        steps_per_loop: int | None = None,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
        evaluate_average: bool = False,
        reduction_dtype: str | None = None,
        bytes_per_pack: int = BYTES_PER_PACK,
        jit_compile: bool = False,
    ):
        model_rules.check_compiled(model)
        for name, value in (
            ("steps_per_loop", steps_per_loop),
            ("micro_batch_size", None if micro_batch_size == "auto" else micro_batch_size),
            ("max_skipped_steps", max_skipped_steps),
        ):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(f"{name} must be at least 1. Received: {value!r}.")
        self.model = model
        self.strategy = strategy or tf.distribute.get_strategy()
        self.images_per_second = 0.0
        self.skipped_steps = 0
        self._prepare_batch = prepare_batch or keras.utils.unpack_x_y_sample_weight
        self._micro_batch_size = micro_batch_size
        self._steps_per_loop = steps_per_loop
        self._max_skipped_steps = max_skipped_steps
        self._jit_compile = jit_compile
        self._evaluator = Evaluator(model, self.strategy, self._prepare_batch)
        self._batch_norm = BatchNormStatistics(model, self.strategy, self._prepare_batch)
        self._average = WeightAverage(model.optimizer, self.strategy) if evaluate_average else None
        self._step = TrainingStep(
            model,
            self.strategy,
            self._prepare_batch,
            reduction_dtype=reduction_dtype,
            bytes_per_pack=bytes_per_pack,
            jit_compile=jit_compile,
        )
        self._loop = tf.function(self._loop_in_graph)
        self._timed_images = 0
        self._timed_seconds = 0.0

    def fit(
        self,
        data: TrainingData,
        *,
        epochs: int,
        validation: EvaluationData | None = None,
        epochs_between_evaluations: int = 1,
        batch_norm_examples: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        checkpoints: CheckpointStore | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> list[dict[str, float]]:
        """Trains to the end of the last epoch, from the newest checkpoint where there is one.

        Training goes on from `step`: a model that has been trained for two epochs already goes on
        with the third. When a callback stops training within an epoch, the
        last entry of the history is of that part of an epoch, with a fraction as `epoch`; a
        checkpoint holds the whole epochs only.

        Args:
          data: training data; its `global_batch_size` must divide among the replicas.
          epochs: passes over the data. The run takes `ceil(epochs * N / B)` steps.
          validation: evaluated, each example once, at the end of an epoch.
          epochs_between_evaluations: evaluate after every so many epochs, and after the last.
          batch_norm_examples: before an evaluation, estimate the statistics of batch
            normalisation anew from about so many training examples. 0 keeps the moving averages,
            which are right after a few hundred steps and useless before.
          callbacks: Keras callbacks. A batch, for them, is one call of the loop. One that may
            stop training belongs on every worker.
          checkpoints: written at the end of each epoch; the newest is restored first.
          stop_requested: asked after each call of the loop, on each worker. When one says yes,
            all stop after the same step, save it, and raise `Preempted`. What goes on from within
            an epoch has the loss and metrics of the rest of that epoch.

        Returns:
          One dictionary per epoch, those before a resumption included: `epoch` (from 1), `step`,
          `loss` and the model's metrics, the same with `val_`, `learning_rate`,
          `images_per_second`, `skipped_steps` (so far), `seconds` (all of the epoch, with its
          evaluation). Of epochs that end in the same step there is one for the last of them.

        Raises:
          InputError: the batch does not divide, the checkpoint is of another run, or replicas
            that normalise together would have to wait for each other where they cannot.
          DivergedError: too many steps had gradients that were not finite.
          Preempted: a worker was asked to stop.
        """
        share = order.per_replica_batch_size(
            data.global_batch_size, self.strategy.num_replicas_in_sync
        )
        if isinstance(self._micro_batch_size, int):
            order.num_micro_batches(share, self._micro_batch_size)
        ends = order.epoch_end_steps(data.num_examples, data.global_batch_size, epochs)
        epoch_of = {end: epoch for epoch, end in enumerate(ends, start=1)}
        spec = self._training_spec(data)
        self.build(spec)
        model_rules.check_batch_norm(
            self.model,
            self.strategy.num_replicas_in_sync,
            in_parts=self._micro_batch_size not in (None, share),
            jit_compile=self._jit_compile,
        )
        of_first = functools.partial(of_first_worker, self.strategy)
        history = checkpoints.restore(self.model, of_first) if checkpoints else []
        if checkpoints and checkpoints.resumed_step is not None:
            self.skipped_steps += checkpoints.resumed_step - self.step
        self._step.micro_batch_size = self._settled_micro_batch(data, share)
        random_state.differ_by_replica(self.model, self.strategy)
        step = self.step
        self._skipped_in_a_row = 0
        self._stop_requested, self._preempted = stop_requested, False
        self.model.stop_training = False
        watchers = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, model=self.model, epochs=epochs, steps=ends[-1]
        )
        watchers.on_train_begin()
        settle_batch_norm = self._batch_norm_settler(data, batch_norm_examples)

        iterator = None
        with gradients_reduced_by_caller(self.model.optimizer):
            evaluated = order.whole_epochs(step, data.num_examples, data.global_batch_size)
            for end, epoch in epoch_of.items():
                if end <= step or self.model.stop_training:
                    continue
                start = time.perf_counter()
                if iterator is None or step in data.shape_changes:
                    change = min((c for c in data.shape_changes if c > step), default=ends[-1])
                    iterator = iter(self._distribute(data, step, min(change, ends[-1])))
                watchers.on_epoch_begin(epoch - 1)
                logs = self._train_epoch(iterator, data.global_batch_size, step, end, watchers)
                step = int(logs["step"])
                whole = step == end
                hurry = self._preempted and not whole
                due = epoch // epochs_between_evaluations > evaluated // epochs_between_evaluations
                last = end == ends[-1] or self.model.stop_training
                if validation and (due or last) and not hurry:
                    logs |= self._validate(validation, settle_batch_norm)
                evaluated = epoch
                self._batch_norm.average()  # a callback may save the model
                logs["seconds"] = time.perf_counter() - start
                watchers.on_epoch_end(epoch - 1, logs)
                stopped = self.model.stop_training and not hurry
                if validation and stopped and "val_loss" not in logs:
                    logs |= self._validate(validation, settle_batch_norm)
                passes = step * data.global_batch_size / data.num_examples
                history.append(logs | {"epoch": epoch if whole else passes})
                saved = checkpoints and np.isfinite(logs["loss"])
                if checkpoints and saved:
                    saved = checkpoints.save(self.model, step, history if whole else history[:-1])
        watchers.on_train_end(history[-1] if history else {})
        if self._preempted and step < ends[-1]:
            raise Preempted(
                f"stopped after step {step:,} of {ends[-1]:,}" + ("" if saved else ", not saved")
            )
        return history

    def evaluate(self, data: EvaluationData) -> dict[str, float]:
        """Returns the loss and metrics over the data, each example counted once."""
        with self.averaged_weights():
            return self._evaluator.run(data)

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within this context the model holds what is evaluated: see `evaluate_average`."""
        return self._average.in_place() if self._average else contextlib.nullcontext()

    @property
    def step(self) -> int:
        """Number of global batches trained on: the optimizer's `iterations` and skipped steps."""
        return int(self.model.optimizer.iterations.numpy()) + self.skipped_steps

    def build(self, spec: Any) -> None:
        """Creates all variables now, in the strategy's scope, instead of while a step is traced.

        `fit` does so by itself; who restores a checkpoint without it calls this first.

        Args:
          spec: of an element of the data, as `tf.data.Dataset.element_spec` has it.
        """
        batch = tf.function(self._prepare_batch).get_concrete_function(spec).structured_outputs
        with self.strategy.scope():
            self.model._symbolic_build(data_batch=batch)
            model_rules.check_losses(self.model, *batch)

    def _training_spec(self, data: TrainingData, step: int = 0) -> Any:
        """Returns the specification of an element of the data at a step."""
        context = tf.distribute.InputContext(1, 0, self.strategy.num_replicas_in_sync)
        spec = data.dataset(context, step, step + 1).element_spec
        if any(leaf.shape.rank == 0 or leaf.shape[0] is None for leaf in tf.nest.flatten(spec)):
            raise InputError(
                f"Training batches must have a static size. Received: {spec}. Batch with "
                "drop_remainder=True."
            )
        return spec

    def _settled_micro_batch(self, data: TrainingData, share: int) -> int | None:
        size = self._micro_batch_size
        if not isinstance(size, str):
            return size
        specs = [self._training_spec(data, step) for step in (0, *data.shape_changes)]
        largest = max(specs, key=lambda s: sum(t.shape.num_elements() for t in tf.nest.flatten(s)))
        return micro_batch.largest_that_fits(self._step, self.model, self.strategy, largest, share)

    def _distribute(self, data: TrainingData, first_step: int, last_step: int):
        return distribute(
            self.strategy, lambda context: data.dataset(context, first_step, last_step)
        )

    def _train_epoch(
        self,
        iterator: Iterator,
        global_batch_size: int,
        step: int,
        end: int,
        watchers: keras.callbacks.CallbackList,
    ) -> dict[str, float]:
        self.model.reset_metrics()
        seconds, images, logs = 0.0, 0, {}
        first, skipped = step, self.skipped_steps
        while step < end and not self.model.stop_training:
            count = min(self._next_loop_length(global_batch_size), end - step)
            watchers.on_train_batch_begin(step)
            traced = self._loop.experimental_get_tracing_count()
            start = time.perf_counter()
            results, done, finite = self._loop(iterator, tf.constant(count))
            logs = {name: float(value) for name, value in results.items()}
            # All workers agree on the time, and so on the length of the next loop; and on the end.
            seconds_here = time.perf_counter() - start
            elapsed, stop = agree(self.strategy, [seconds_here, float(self._stop_requested())])
            count = int(done)
            step += count
            seconds, images = seconds + elapsed, images + count * global_batch_size
            if traced == self._loop.experimental_get_tracing_count():
                self._timed_images += count * global_batch_size
                self._timed_seconds += elapsed
                self.images_per_second = self._timed_images / self._timed_seconds
            logs["images_per_second"] = count * global_batch_size / elapsed
            finite = finite.numpy()
            if count > 1 or finite.all():
                self._skipped_in_a_row = 0
            if not finite.all():
                self._skipped_in_a_row += 1
                self.skipped_steps += 1
            all_skipped = self.skipped_steps - skipped == step - first
            # Loss scaling may need more steps than a short epoch has until its scale fits.
            nothing_learned = step == end and all_skipped and not self._step.scales_loss
            if nothing_learned:
                logs["loss"] = float("nan")  # the mean over no step
            watchers.on_train_batch_end(step - 1, logs)
            too_many = self._skipped_in_a_row >= self._max_skipped_steps or not (
                self._step.skips_bad_steps or finite.all()
            )
            if (too_many or nothing_learned) and not self.model.stop_training:
                raise DivergedError(self._not_finite(step, finite))
            self._preempted = self._preempted or stop > 0
            self.model.stop_training = self.model.stop_training or self._preempted
        return logs | {
            "step": step,
            "images_per_second": images / seconds,
            "skipped_steps": self.skipped_steps,
        }

    def _not_finite(self, step: int, finite: np.ndarray) -> str:
        variables = self.model.trainable_variables
        names = [v.path for v, is_finite in zip(variables, finite, strict=True) if not is_finite]
        return (
            f"Gradients must be finite. Received: Inf or NaN in {self._skipped_in_a_row} steps in "
            f"a row, up to step {step}, in the gradients of {len(names)} of "
            f"{len(variables)} variables, the first of them {names[0]}. Use a lower learning rate "
            "or a longer warm-up, or look for a bad image or label."
        )

    def _validate(self, data: EvaluationData, settle_batch_norm: Callable) -> dict[str, float]:
        with self.averaged_weights():
            settle_batch_norm()
            logs = self._evaluator.run(data)
        return {f"val_{name}": value for name, value in logs.items()}

    def _next_loop_length(self, global_batch_size: int) -> int:
        if self._steps_per_loop:
            return self._steps_per_loop
        return max(1, round(LOOP_SECONDS * self.images_per_second / global_batch_size))

    def _loop_in_graph(self, iterator, steps):
        done, finite = self._step.repeat(iterator, steps)
        rate = keras.ops.convert_to_tensor(self.model.optimizer.learning_rate)
        return self.model.get_metrics_result() | {"learning_rate": rate}, done, finite

    def _batch_norm_settler(self, data: TrainingData, examples: int) -> Callable[[], None]:
        """Returns what makes the statistics of batch normalisation fit for evaluation."""
        if not examples:
            return self._batch_norm.average
        steps = order.evaluation_steps(min(examples, data.num_examples), data.global_batch_size)
        start = max(data.shape_changes, default=0)  # the images of the last epochs
        dataset = self._distribute(data, start, start + steps)
        share = data.global_batch_size // self.strategy.num_replicas_in_sync
        parts = share // (self._step.micro_batch_size or share)
        return lambda: self._batch_norm.estimate(dataset, steps, parts)

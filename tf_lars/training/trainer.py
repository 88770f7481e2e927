"""Synchronous training of a compiled Keras model on any number of replicas.

Keras's own `fit` crashes under MultiWorkerMirroredStrategy and runs one step per call. `Trainer`
runs many steps per call of one `tf.function`, with `strategy.run` inside, and gives the result of
one process on the whole global batch.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_lars.data import order
from tf_lars.defaults import BYTES_PER_PACK, MAX_SKIPPED_STEPS
from tf_lars.distribute.batch_norm import BatchNormStatistics
from tf_lars.distribute.replicas import broadcast_from_chief, distribute
from tf_lars.errors import InputError, require
from tf_lars.private_api import build_model, gradients_reduced_by_caller
from tf_lars.training import micro_batch, model_checks, random_state
from tf_lars.training.checkpoints import CheckpointStore
from tf_lars.training.evaluator import EvaluationData, Evaluator
from tf_lars.training.loop import TrainingLoop
from tf_lars.training.run_state import RunState, TrainingData
from tf_lars.training.step import Batch, TrainingStep
from tf_lars.training.weight_average import WeightAverage


class Trainer:
    """Trainer and evaluator of a compiled Keras model under a tf.distribute strategy.

    The loss is the mean over the global batch, gradients are summed over the replicas in one
    all-reduce, and the optimizer's `iterations` counts optimizer steps. If the optimizer clips
    gradients, it clips them after the all-reduce. A step whose reduced gradients are not finite is
    skipped on all replicas, and counted; on TPUs it ends the run.

    Args:
      model: Compiled model, created in the strategy's scope. Losses must have the reduction
        "sum_over_batch_size", Keras's default, and return one value per example. Terms that a
        model's own `compute_loss` adds must be divided by the number of replicas, as Keras divides
        its losses. All metrics get the sample weights of evaluation batches, so that padding never
        counts.
      strategy: Strategy from `tf_lars.create_strategy`, or any synchronous strategy; by default
        the strategy in scope.
      prepare_batch: Function that turns an element of the data into `(x, y, sample_weight)` on the
        device; by default, elements must be such tuples.
      micro_batch_size: Number of examples that a replica processes at a time. It must divide the
        replica's share of the global batch, and is all of it by default. Gradients of the parts
        are summed before the one all-reduce, so the step is the same except for batch
        normalisation, which normalises each part separately. "auto" takes the largest size with
        which no replica runs out of memory.
      steps_per_loop: Optimizer steps per call of the `tf.function`. By default the number that
        takes about two seconds, the same on all workers.
      max_skipped_steps: Number of consecutive skipped steps that ends the run.
      evaluate_average: Whether to evaluate the exponential moving average of the weights, kept by
        an optimizer with `use_ema=True`, instead of the weights. Statistics of batch normalisation
        are those of the trained weights or, with `batch_norm_examples`, of the average.
      reduction_dtype: "bfloat16" halves the bytes of the all-reduce and rounds each replica's
        gradients to 8 bits of precision; by default they keep their own type.
      bytes_per_pack: Maximum size of the packs in which gradients are all-reduced; 0 for one pack.
      jit_compile: Whether to compile each replica's forward and backward pass with XLA. On CPUs
        this was 2 to 3.5 times slower.

    Raises:
      InputError: If the model is not compiled or has its own `train_step`, a loss has another
        reduction, the optimizer accumulates gradients, or `evaluate_average` is set and the
        optimizer keeps no average.
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
        model_checks.check_compiled(model)
        for name, value in (
            ("steps_per_loop", steps_per_loop),
            ("micro_batch_size", None if micro_batch_size == "auto" else micro_batch_size),
            ("max_skipped_steps", max_skipped_steps),
        ):
            is_count = isinstance(value, int) and value >= 1
            require(value is None or is_count, name, "at least 1", value)
        self.model = model
        self.strategy = strategy or tf.distribute.get_strategy()
        self._prepare_batch = prepare_batch or keras.utils.unpack_x_y_sample_weight
        self._micro_batch_size = micro_batch_size
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
        self._loop = TrainingLoop(
            model,
            self.strategy,
            self._step,
            steps_per_loop=steps_per_loop,
            max_skipped_steps=max_skipped_steps,
        )

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
        """Trains to the end of the last epoch, resuming from the newest checkpoint if there is one.

        Training starts at `step`: a model already trained for two epochs continues with the third.
        If a callback stops training within an epoch, the last entry of the history covers that part
        of the epoch, with a fractional `epoch`; checkpoints record complete epochs only.

        Args:
          data: Training data; its `global_batch_size` must be divisible by the number of replicas.
          epochs: Number of passes over the data. The run takes `ceil(epochs * N / B)` steps.
          validation: Data to evaluate at the end of an epoch, each example once.
          epochs_between_evaluations: Interval of evaluations in epochs; the last epoch is always
            evaluated.
          batch_norm_examples: Approximate number of training examples from which the statistics of
            batch normalisation are estimated before each evaluation. 0 keeps the moving averages,
            which are accurate after a few hundred steps and useless before.
          callbacks: Keras callbacks, for which one call of the loop is a batch. A callback that may
            stop training must run on every worker.
          checkpoints: Store for a checkpoint at the end of each epoch; its newest is restored
            first.
          stop_requested: Function called on each worker after each call of the loop. If it returns
            True on any worker, all workers stop after the same step, save it and raise `Preempted`.
            A run resumed mid-epoch reports the loss and metrics of the rest of that epoch.

        Returns:
          One dictionary per epoch, including those before a resumption: `epoch` (from 1), `step`,
          `loss` and the model's metrics, the same with `val_`, `learning_rate`,
          `images_per_second`, `skipped_steps` (so far), and `seconds` (of the whole epoch,
          including evaluation). Several epochs that end in the same step share one entry, for the
          last of them.

        Raises:
          InputError: If the batch does not divide among the replicas, the checkpoint belongs to
            another run, another run is using the folder, or replicas cannot wait for each other in
            synchronized batch normalisation.
          DivergedError: If too many steps had gradients that were not finite.
          Preempted: If a worker was asked to stop.
        """
        with self._alone_in(checkpoints):
            share = self._prepare(data)
            history = self._restore(checkpoints)
            self._step.micro_batch_size = self._chosen_micro_batch(data, share)
            random_state.differ_by_replica(self.model, self.strategy)
            self.model.stop_training = False
            ends = order.epoch_end_steps(data.num_examples, data.global_batch_size, epochs)
            run = RunState(
                model=self.model,
                data=data,
                epoch_ends=ends,
                step=self.step,
                history=history,
                callbacks=keras.callbacks.CallbackList(
                    list(callbacks),
                    add_history=True,
                    model=self.model,
                    epochs=epochs,
                    steps=ends[-1],
                ),
                checkpoints=checkpoints,
                stop_requested=stop_requested,
                epochs_between_evaluations=epochs_between_evaluations,
            )
            run.callbacks.on_train_begin()
            validate = self._validation(data, validation, batch_norm_examples)
            with gradients_reduced_by_caller(self.model.optimizer):
                for epoch, end in run.epochs_left():
                    start = time.perf_counter()
                    self._open_batches(run)
                    run.callbacks.on_epoch_begin(epoch - 1)
                    logs = self._loop.run_epoch(run, end)
                    if run.evaluation_is_due(epoch, end):
                        logs |= validate()
                    self._batch_norm.average()  # a callback may save the model
                    logs["seconds"] = time.perf_counter() - start
                    run.callbacks.on_epoch_end(epoch - 1, logs)
                    if run.ended_by_callback(end) and "val_loss" not in logs:
                        logs |= validate()
                    run.record(logs, epoch, end)
            run.callbacks.on_train_end(run.history[-1] if run.history else {})
            run.raise_if_preempted()
            return run.history

    def evaluate(self, data: EvaluationData) -> dict[str, float]:
        """Returns the loss and metrics over the data, counting each example once."""
        with self.averaged_weights():
            return self._evaluator.run(data)

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within this context, the model holds the weights to evaluate: see `evaluate_average`."""
        return self._average.in_place() if self._average else contextlib.nullcontext()

    @property
    def step(self) -> int:
        """Number of global batches trained on: the optimizer's `iterations` plus skipped steps."""
        return int(self.model.optimizer.iterations.numpy()) + self.skipped_steps

    @property
    def skipped_steps(self) -> int:
        """Number of steps whose gradients were not finite."""
        return self._loop.skipped_steps

    @property
    def images_per_second(self) -> float:
        """Examples per second over all replicas, excluding calls that traced the loop."""
        return self._loop.images_per_second

    def reset_optimizer(self) -> None:
        """Resets the optimizer's state and the step count to zero; weights are unchanged."""
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self._loop.skipped_steps = 0

    def build(self, spec: Any) -> None:
        """Creates all variables now, in the strategy's scope, instead of while a step is traced.

        `fit` calls this itself. To restore a checkpoint without `fit`, call this first.

        Args:
          spec: Specification of an element of the data, as in `tf.data.Dataset.element_spec`.
        """
        batch = tf.function(self._prepare_batch).get_concrete_function(spec).structured_outputs
        with self.strategy.scope():
            build_model(self.model, batch)
            model_checks.check_losses(self.model, *batch)

    def _prepare(self, data: TrainingData) -> int:
        """Checks the batch and builds the model; returns a replica's share of the batch."""
        share = order.per_replica_batch_size(
            data.global_batch_size, self.strategy.num_replicas_in_sync
        )
        if isinstance(self._micro_batch_size, int):
            order.num_micro_batches(share, self._micro_batch_size)
        self.build(self._training_spec(data))
        model_checks.check_batch_norm(
            self.model,
            self.strategy.num_replicas_in_sync,
            in_parts=self._micro_batch_size not in (None, share),
            jit_compile=self._jit_compile,
        )
        return share

    def _alone_in(self, checkpoints: CheckpointStore | None) -> contextlib.AbstractContextManager:
        """Returns a context in which no other run uses the checkpoints."""
        return checkpoints.exclusive(self._from_chief) if checkpoints else contextlib.nullcontext()

    def _from_chief(self, value: int) -> int:
        return broadcast_from_chief(self.strategy, value)

    def _restore(self, checkpoints: CheckpointStore | None) -> list[dict[str, float]]:
        """Restores the newest checkpoint, if any, and returns its history."""
        if checkpoints is None:
            return []
        history = checkpoints.restore(self.model, self._from_chief)
        if checkpoints.resumed_step is not None:
            self._loop.skipped_steps += checkpoints.resumed_step - self.step
        return history

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

    def _chosen_micro_batch(self, data: TrainingData, share: int) -> int | None:
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

    def _open_batches(self, run: RunState) -> None:
        """Opens the batches of the next steps if none are open or their shape changes."""
        if run.iterator is None or run.step in run.data.shape_changes:
            run.iterator = iter(self._distribute(run.data, run.step, run.shape_change()))

    def _validation(
        self, data: TrainingData, validation: EvaluationData | None, batch_norm_examples: int
    ) -> Callable[[], dict[str, float]]:
        """Returns a function that evaluates the model, or returns {} without validation data."""
        if validation is None:
            return dict
        settle_batch_norm = self._batch_norm_settler(data, batch_norm_examples)

        def validate() -> dict[str, float]:
            with self.averaged_weights():
                settle_batch_norm()
                logs = self._evaluator.run(validation)
            return {f"val_{name}": value for name, value in logs.items()}

        return validate

    def _batch_norm_settler(self, data: TrainingData, examples: int) -> Callable[[], None]:
        """Returns a function that prepares batch normalisation statistics for evaluation."""
        if not examples:
            return self._batch_norm.average
        steps = order.evaluation_steps(min(examples, data.num_examples), data.global_batch_size)
        start = max(data.shape_changes, default=0)  # images of the size of the last epochs
        dataset = self._distribute(data, start, start + steps)
        share = data.global_batch_size // self.strategy.num_replicas_in_sync
        parts = share // (self._step.micro_batch_size or share)
        return lambda: self._batch_norm.estimate(dataset, steps, parts)

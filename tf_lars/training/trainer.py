"""Synchronous training of a compiled Keras model on any number of replicas.

Keras's own `fit` crashes under MultiWorkerMirroredStrategy and runs one step per call. `Trainer`
runs many steps per call of one `tf.function`, with `strategy.run` inside, and gives the result of
one process on the whole global batch.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_lars.data import order
from tf_lars.data.fit_inputs import choose
from tf_lars.defaults import BYTES_PER_PACK, MAX_SKIPPED_STEPS
from tf_lars.distribute.replicas import (
    broadcast_from_chief,
    is_first_worker,
)
from tf_lars.errors import InputError, require
from tf_lars.private_api import build_model, gradients_reduced_by_caller
from tf_lars.tracking.console import ProgressLine
from tf_lars.tracking.observation import Observe
from tf_lars.training import micro_batch, model_checks, random_state
from tf_lars.training.batch import unpacker
from tf_lars.training.checkpoints import CheckpointStore
from tf_lars.training.evaluator import EvaluationData
from tf_lars.training.history import TrainingHistory
from tf_lars.training.machinery import Machinery, ModelState
from tf_lars.training.mean_loss import averaged_over
from tf_lars.training.run_state import RunState, TrainingData, epoch_ends, steps_over


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
        device; by default, elements must be such tuples. It is called without AutoGraph, as models
        and losses are by Keras's `fit`.
      micro_batch_size: Number of examples that a replica processes at a time. It must divide the
        replica's share of the global batch, and is all of it by default, or of the smallest in a
        schedule. Gradients of the parts are summed before the one all-reduce, so the step is the
        same except for batch normalisation, which normalises each part separately. "auto" takes
        the largest size with which no replica runs out of memory.
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
      observe: What to observe for callbacks of `tf_lars.tracking`; by default what costs nothing.

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
        prepare_batch: Callable[[Any], tuple[Any, Any, Any]] | None = None,
        micro_batch_size: int | str | None = None,
        steps_per_loop: int | None = None,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
        evaluate_average: bool = False,
        reduction_dtype: str | None = None,
        bytes_per_pack: int = BYTES_PER_PACK,
        jit_compile: bool = False,
        observe: Observe | None = None,
    ):
        for name, value in (
            ("steps_per_loop", steps_per_loop),
            ("micro_batch_size", None if micro_batch_size == "auto" else micro_batch_size),
            ("max_skipped_steps", max_skipped_steps),
        ):
            is_count = isinstance(value, int) and value >= 1
            require(value is None or is_count, name, "at least 1", value)
        self.model = model
        self.strategy = model_checks.strategy_for(model, strategy)
        self._unpack = unpacker(prepare_batch or keras.utils.unpack_x_y_sample_weight)
        self._micro_batch_size = micro_batch_size
        self._jit_compile = jit_compile
        self._options: dict[str, Any] = {
            "steps_per_loop": steps_per_loop,
            "max_skipped_steps": max_skipped_steps,
            "evaluate_average": evaluate_average,
            "reduction_dtype": reduction_dtype,
            "bytes_per_pack": bytes_per_pack,
            "jit_compile": jit_compile,
            "observe": observe or Observe(),
        }
        self._fits = 0
        self._state: ModelState | None = None
        self._follow_model()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        *,
        batch_norm_examples: int = 0,
        checkpoints: CheckpointStore | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> TrainingHistory:
        """Trains from `initial_epoch` to the end of the last epoch, as Keras's `fit` does.

        Every worker is given the same data, and trains on its own part of each global batch. With
        `checkpoints`, training resumes from the newest one if there is one. If a callback stops
        training within an epoch, the last entry of the history covers that part of the epoch, with
        a fractional `epoch`; checkpoints record complete epochs only.

        Args:
          x: Inputs: NumPy arrays, tensors, pandas frames, or lists, tuples and dictionaries of
            them; or a `tf.data.Dataset` of batches, a `keras.utils.PyDataset` or a generator; or
            training data of this package, such as `tf_lars.data.image_input.TrainingInput`. The
            batches of a dataset are global batches. A generator is read again from its beginning
            where training resumes, a dataset passes over what has been used.
          y: Targets, if `x` are arrays.
          batch_size: Global batch size of arrays; 32 by default. It must be divisible by the number
            of replicas. The last batch of an epoch may be smaller.
          epochs: Number of the last epoch.
          verbose: 0 prints nothing; otherwise the first worker prints a line per epoch.
          callbacks: Keras callbacks, for which one call of the loop is a batch. A callback that may
            stop training must run on every worker.
          validation_split: Share of the arrays, at their end, that is only evaluated.
          validation_data: `(x, y)`, `(x, y, sample_weight)` or any other source, to evaluate at the
            end of an epoch, each example once.
          shuffle: Whether the arrays' examples, or a `PyDataset`'s batches, come in another order
            in each epoch, the same on all workers. It has no effect on other sources.
          class_weight: Weight of each class.
          sample_weight: Weights of the examples, if `x` are arrays.
          initial_epoch: Number of epochs to pass over, from 0.
          steps_per_epoch: Batches in an epoch of a dataset or a generator; by default all.
          validation_steps: Batches to evaluate; by default all.
          validation_batch_size: Batch size of arrays in evaluation; `batch_size` by default.
          validation_freq: Interval of evaluations in epochs, or the numbers of the epochs, from 1.
            The last epoch is always evaluated.
          batch_norm_examples: Approximate number of training examples from which the statistics of
            batch normalisation are estimated before each evaluation. 0 keeps the moving averages,
            which are accurate after a few hundred steps and useless before.
          checkpoints: Store for a checkpoint at the end of each epoch; its newest is restored
            first.
          stop_requested: Function called on each worker after each call of the loop. If it returns
            True on any worker, all workers stop after the same step, save it and raise `Preempted`.
            A run resumed mid-epoch reports the loss and metrics of the rest of that epoch.

        Returns:
          Keras's history; as a sequence, one dictionary per epoch, including those before a
          resumption: `epoch` (from 1), `step`, `loss` and the model's metrics, the same with
          `val_`, `learning_rate`, `images_per_second`, `input_wait` (share of the time in which the
          slowest input was waited for), `skipped_steps` (so far), and `seconds` (of the whole
          epoch, including evaluation). Several epochs that end in the same step share one
          entry, for the last of them.

        Raises:
          InputError: If the data are refused, differ between workers or do not divide among the
            replicas, the checkpoint belongs to another run, another run is using the folder, or
            replicas cannot wait for each other in synchronized batch normalisation.
          DivergedError: If too many steps had gradients that were not finite.
          Preempted: If a worker was asked to stop.
        """
        for name, value, lowest in (("epochs", epochs, 1), ("initial_epoch", initial_epoch, 0)):
            require(isinstance(value, int) and value >= lowest, name, f"at least {lowest}", value)
        interval = validation_freq if isinstance(validation_freq, int) else 1
        require(interval >= 1, "validation_freq", "at least 1", validation_freq)
        if validation_split:
            rows, held_out = choose.split(x, y, sample_weight, validation_split)
            x, y, sample_weight = (*rows, None, None)[:3]
            validation_data = held_out if validation_data is None else validation_data
        data = choose.training(
            *(x, y, sample_weight),
            batch_size=batch_size,
            steps=steps_per_epoch,
            class_weight=class_weight,
            shuffle=shuffle,
            seed=self._fits,
        )
        validation = choose.validation(
            validation_data,
            batch_size=validation_batch_size or batch_size,
            steps=validation_steps,
        )
        self._fits += 1
        model_checks.check_same_data(self.strategy, data, validation)
        with self._alone_in(checkpoints):
            return self._fit(
                data,
                validation,
                list(callbacks or ()),
                epochs=epochs,
                first_epoch=initial_epoch,
                verbose=verbose,
                evaluations=validation_freq,
                batch_norm_examples=batch_norm_examples,
                checkpoints=checkpoints,
                stop_requested=stop_requested,
            )

    def _fit(
        self,
        data: TrainingData,
        validation: EvaluationData | None,
        callbacks: list[keras.callbacks.Callback],
        *,
        epochs: int,
        first_epoch: int,
        verbose: int | str,
        evaluations: int | Sequence[int],
        batch_norm_examples: int,
        checkpoints: CheckpointStore | None,
        stop_requested: Callable[[], bool],
    ) -> TrainingHistory:
        micro_batch_size = self._prepare(data)
        entries, resumed_step = self._restore(checkpoints)
        if isinstance(micro_batch_size, str):
            micro_batch_size = self._largest_micro_batch(data)
        self._now.step.micro_batch_size = micro_batch_size
        random_state.differ_by_replica(self.model, self.strategy)
        self.model.stop_training = False
        ends = epoch_ends(data, epochs)
        start = ends[first_epoch - 1] if first_epoch else 0
        history = TrainingHistory(entries)
        if verbose and is_first_worker(self.strategy):
            names = [metric.name for metric in self.model.metrics if metric.name != "loss"]
            total, position = ends[-1], steps_over(data).position
            line = ProgressLine(total_steps=total, epochs=epochs, metrics=names, position=position)
            callbacks = [*callbacks, line]
        run = RunState(
            model=self.model,
            data=data,
            epoch_ends=ends,
            step=start if resumed_step is None else resumed_step,
            history=entries,
            callbacks=keras.callbacks.CallbackList(
                [*callbacks, history], model=self.model, epochs=epochs, steps=ends[-1]
            ),
            checkpoints=checkpoints,
            stop_requested=stop_requested,
            evaluations=evaluations,
        )
        self.model.history = history
        run.callbacks.on_train_begin()
        validate = self._now.validation(data, validation, batch_norm_examples)
        if validation is not None:
            validate = run.with_test_callbacks(validate)
        with gradients_reduced_by_caller(self.model.optimizer), run.batches():
            for epoch, end in run.epochs_left():
                start_time = time.perf_counter()
                run.open_batches(self.strategy, end)
                run.callbacks.on_epoch_begin(epoch - 1)
                logs = self._now.loop.run_epoch(run, end)
                if run.evaluation_is_due(epoch, end):
                    logs |= validate()
                self._now.batch_norm.average()  # a callback may save the model
                logs["seconds"] = time.perf_counter() - start_time
                run.callbacks.on_epoch_end(epoch - 1, logs)
                if run.ended_by_callback(end) and "val_loss" not in logs:
                    logs |= validate()
                run.record(logs, epoch, end, self.skipped_steps)
                getattr(data, "epoch_ended", lambda: None)()
        run.callbacks.on_train_end(run.history[-1] if run.history else {})
        run.raise_if_preempted()
        return history

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        sample_weight: Any = None,
        steps: int | None = None,
    ) -> dict[str, float]:
        """Returns the loss and metrics over the data by name, counting each example once.

        The arguments are those of `fit`.
        """
        data = choose.evaluation(x, y, sample_weight, batch_size=batch_size, steps=steps)
        model_checks.check_same_data(self.strategy, data)
        self._follow_model()
        with self.averaged_weights():
            return self._now.evaluator.run(data)

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within this context, the model holds the weights to evaluate: see `evaluate_average`."""
        return self._now.averaged_weights()

    @property
    def step(self) -> int:
        """Number of global batches trained on: the optimizer's `iterations` plus skipped steps."""
        return self._iterations + self.skipped_steps

    @property
    def skipped_steps(self) -> int:
        """Number of steps whose gradients were not finite."""
        return self._now.loop.skipped_steps

    @property
    def micro_batch_size(self) -> int | None:
        """Examples that a replica processes at a time, once `fit` has begun; None for its share."""
        return self._now.step.micro_batch_size

    @property
    def images_per_second(self) -> float:
        """Examples per second over all replicas, excluding calls that traced the loop."""
        return self._now.loop.images_per_second

    def reset_optimizer(self) -> None:
        """Resets the optimizer's state and the step count to zero; weights are unchanged."""
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self._now.loop.skipped_steps = 0

    def build(self, spec: Any) -> None:
        """Creates all variables now, in the strategy's scope, instead of while a step is traced.

        `fit` calls this itself. To restore a checkpoint without `fit`, call this first.

        Args:
          spec: Specification of an element of the data, as in `tf.data.Dataset.element_spec`.
        """
        batch = tf.function(self._unpack).get_concrete_function(spec).structured_outputs
        with self.strategy.scope(), averaged_over(batch.without_padding(), one_pass=False):
            build_model(self.model, batch[:3])
            model_checks.check_losses(self.model, batch)

    def _prepare(self, data: TrainingData) -> int | str | None:
        """Checks the batches and builds the model; returns the size of micro-batches, or "auto"."""
        shares = order.shares(data.global_batch_size, self.strategy.num_replicas_in_sync)
        size = order.common_micro_batch(self._micro_batch_size, shares)
        self.build(self._training_spec(data))
        self._follow_model()
        for share in shares:
            model_checks.check_batch_norm(
                self.model,
                self.strategy.num_replicas_in_sync,
                share,
                micro_batch_size=size,
                jit_compile=self._jit_compile,
            )
        return size

    @property
    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _follow_model(self) -> None:
        """Builds everything anew if the model has been compiled or frozen otherwise since."""
        model_checks.check_compiled(self.model)
        state = ModelState.of(self.model)
        if self._state is not None and self._state.is_same(state):
            self._state = state
            return
        skipped = 0
        if self._state is not None and self._state.compiled[0] is self.model.optimizer:
            skipped = self.skipped_steps
        self._now = Machinery(self.model, self.strategy, self._unpack, **self._options)
        self._now.loop.skipped_steps = skipped
        self._state = state

    def _alone_in(self, checkpoints: CheckpointStore | None) -> contextlib.AbstractContextManager:
        """Returns a context in which no other run uses the checkpoints."""
        return checkpoints.exclusive(self._from_chief) if checkpoints else contextlib.nullcontext()

    def _from_chief(self, value: int) -> int:
        return broadcast_from_chief(self.strategy, value)

    def _restore(
        self, checkpoints: CheckpointStore | None
    ) -> tuple[list[dict[str, float]], int | None]:
        """Restores the newest checkpoint, if any, and returns its history and its step."""
        if checkpoints is None:
            return [], None
        history = checkpoints.restore(self.model, self._from_chief)
        step = checkpoints.resumed_step
        if step is not None:
            skipped = checkpoints.resumed_skipped_steps
            self._now.loop.skipped_steps = step - self._iterations if skipped is None else skipped
        return history, step

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

    def _largest_micro_batch(self, data: TrainingData) -> int:
        shares = order.shares(data.global_batch_size, self.strategy.num_replicas_in_sync)
        specs = [self._training_spec(data, step) for step in (0, *data.shape_changes)]
        largest = max(specs, key=lambda s: sum(t.shape.num_elements() for t in tf.nest.flatten(s)))
        return micro_batch.largest_that_fits(
            self._now.step, self.model, self.strategy, largest, math.gcd(*shares)
        )

"""Runs the optimizer steps of an epoch, many in each call of one `tf.function`."""

import time

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data.input_errors import told_by_input
from tf_lars.distribute.replicas import mean_over_workers
from tf_lars.errors import DivergedError
from tf_lars.private_api import results_of
from tf_lars.training.run_state import RunState
from tf_lars.training.step import TrainingStep

LOOP_SECONDS = 2.0
"""Target duration of one call of the loop if `steps_per_loop` is not given."""


class TrainingLoop:
    """Loop that takes the steps of an epoch, counts skipped ones and measures the rate.

    Args:
      model: Compiled model, built before the first call.
      strategy: Strategy in whose scope the model was created.
      step: Training step to repeat.
      steps_per_loop: Optimizer steps per call of the `tf.function`. None chooses the number that
        takes about `LOOP_SECONDS`, the same on all workers.
      max_skipped_steps: Number of consecutive skipped steps that ends the run.

    Attributes:
      images_per_second: Rate over all calls that did not trace the loop.
      skipped_steps: Number of steps whose gradients were not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        step: TrainingStep,
        *,
        steps_per_loop: int | None,
        max_skipped_steps: int,
    ):
        self.images_per_second = 0.0
        self.skipped_steps = 0
        self._model = model
        self._strategy = strategy
        self._step = step
        self._steps_per_loop = steps_per_loop
        self._max_skipped_steps = max_skipped_steps
        self._call = tf.function(self._loop_in_graph)
        self._timed_images = 0
        self._timed_seconds = 0.0

    @property
    def tracing_count(self) -> int:
        """Number of times that the loop has been traced."""
        return self._call.experimental_get_tracing_count()

    def run_epoch(self, run: RunState, end: int) -> dict[str, float]:
        """Takes steps until `end`, or until a callback or a stop request ends training.

        Args:
          run: State of the run; `step`, `skipped_in_a_row` and `preempted` are updated.
          end: Last step of the epoch.

        Returns:
          `loss` and the model's metrics over the steps taken, `learning_rate`, `step`,
          `images_per_second` and `skipped_steps`.

        Raises:
          DivergedError: If too many steps had gradients that were not finite.
        """
        self._model.reset_metrics()
        first, skipped, seconds = run.step, self.skipped_steps, 0.0
        logs: dict[str, float] = {}
        while run.step < end and not self._model.stop_training:
            run.callbacks.on_train_batch_begin(run.step)
            logs, finite, elapsed = self._run_once(run, end)
            seconds += elapsed
            all_skipped = self.skipped_steps - skipped == run.step - first
            # Loss scaling may need more steps than a short epoch has to find its scale.
            nothing_learned = run.step == end and all_skipped and not self._step.scales_loss
            if nothing_learned:
                logs["loss"] = float("nan")  # the mean over no steps
            run.callbacks.on_train_batch_end(run.step - 1, logs)
            too_many = run.skipped_in_a_row >= self._max_skipped_steps or not (
                self._step.skips_bad_steps or finite.all()
            )
            if (too_many or nothing_learned) and not self._model.stop_training:
                raise DivergedError(self._not_finite(run, finite))
            self._model.stop_training = self._model.stop_training or run.preempted
        images = (run.step - first) * run.data.global_batch_size
        return logs | {
            "step": run.step,
            "images_per_second": images / seconds,
            "skipped_steps": self.skipped_steps,
        }

    def _run_once(self, run: RunState, end: int) -> tuple[dict[str, float], np.ndarray, float]:
        """Calls the loop once; returns its logs, which gradients were finite, and the seconds."""
        batch = run.data.global_batch_size
        count = min(self._next_length(batch), end - run.step)
        traces = self.tracing_count
        start = time.perf_counter()
        with told_by_input():
            results, done, finite = self._call(run.iterator, tf.constant(count))
        logs = {name: float(value) for name, value in results.items()}
        seconds_here = time.perf_counter() - start
        # All workers agree on the time, hence on the length of the next call, and on stopping.
        elapsed, stop = mean_over_workers(
            self._strategy, [seconds_here, float(run.stop_requested())]
        )
        taken, finite = int(done), finite.numpy()
        run.step += taken
        run.preempted = run.preempted or stop > 0
        if traces == self.tracing_count:
            self._timed_images += taken * batch
            self._timed_seconds += elapsed
            self.images_per_second = self._timed_images / self._timed_seconds
        logs["images_per_second"] = taken * batch / elapsed
        if taken > 1 or finite.all():
            run.skipped_in_a_row = 0
        if not finite.all():
            run.skipped_in_a_row += 1
            self.skipped_steps += 1
        return logs, finite, elapsed

    def _next_length(self, global_batch_size: int) -> int:
        if self._steps_per_loop:
            return self._steps_per_loop
        return max(1, round(LOOP_SECONDS * self.images_per_second / global_batch_size))

    def _loop_in_graph(self, iterator, steps):
        done, finite = self._step.repeat(iterator, steps)
        rate = keras.ops.convert_to_tensor(self._model.optimizer.learning_rate)
        return results_of(self._model) | {"learning_rate": rate}, done, finite

    def _not_finite(self, run: RunState, finite: np.ndarray) -> str:
        variables = self._model.trainable_variables
        names = [v.path for v, is_finite in zip(variables, finite, strict=True) if not is_finite]
        return (
            f"Gradients must be finite. Received: Inf or NaN in {run.skipped_in_a_row} steps in "
            f"a row, up to step {run.step}, in the gradients of {len(names)} of "
            f"{len(variables)} variables, the first of them {names[0]}. Use a lower learning rate "
            "or a longer warm-up, or look for a bad image or label."
        )

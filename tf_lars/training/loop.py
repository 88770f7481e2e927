"""Runs the optimizer steps of an epoch, many in each call of one `tf.function`."""

import time

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data.input_errors import told_by_input
from tf_lars.distribute.replicas import gather_from_workers
from tf_lars.private_api import finish_assignments, results_of
from tf_lars.tracking.observation import LayerSample, Observation, PartNorms, WorkerTimes
from tf_lars.training.divergence import Divergence
from tf_lars.training.layer_samples import LayerSampler
from tf_lars.training.run_state import RunState
from tf_lars.training.step import StepsTaken, TrainingStep

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
      sampler: Sampler of the layers, used every `layers_every` steps; None for never.
      layers_every: Interval of samples in steps.

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
        sampler: LayerSampler | None = None,
        layers_every: int = 0,
    ):
        self.images_per_second = 0.0
        self.skipped_steps = 0
        self._model = model
        self._strategy = strategy
        self._step = step
        self._steps_per_loop = steps_per_loop
        self._max_skipped_steps = max_skipped_steps
        self._sampler = sampler
        self._layers_every = layers_every if sampler else 0
        self._call = tf.function(self._loop_in_graph)
        self._timed_images = 0
        self._timed_seconds = 0.0
        self._exploded = False
        self._most_steps = 1

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
          `images_per_second`, `input_wait` and `skipped_steps`.

        Raises:
          DivergedError: If too many steps had gradients that were not finite.
        """
        self._model.reset_metrics()
        first, skipped, seconds, waited = run.step, self.skipped_steps, 0.0, 0.0
        logs: dict[str, float] = {}
        if self._sampler:
            self._sampler.begin()
        # Callbacks of one worker, such as the chief's, may ask for the end of a call.
        asked = gather_from_workers(self._strategy, [run.steps_to_boundary(run.step)])
        self._most_steps = int(min(row[0] for row in asked))
        while run.step < end and not self._model.stop_training:
            run.callbacks.on_train_batch_begin(run.step)
            logs, taken, observation = self._run_once(run, end)
            seconds += observation.seconds
            waited += observation.seconds * (observation.input_wait or 0.0)
            all_skipped = self.skipped_steps - skipped == run.step - first
            # Loss scaling may need more steps than a short epoch has to find its scale.
            nothing_learned = run.step == end and all_skipped and not self._step.scales_loss
            if nothing_learned:
                logs["loss"] = float("nan")  # the mean over no steps
            run.tell(observation)
            run.callbacks.on_train_batch_end(run.step - 1, logs)
            finite = taken.finite.numpy()
            too_many = run.skipped_in_a_row >= self._max_skipped_steps or not (
                self._step.skips_bad_steps or finite.all()
            )
            if (too_many or nothing_learned) and not self._model.stop_training:
                raise self._divergence(run, finite).not_finite()
            if self._exploded:
                raise self._divergence(run, finite).exploded()
            self._model.stop_training = self._model.stop_training or run.preempted
        images = run.examples_since(first)
        if "input_wait" in logs:
            logs["input_wait"] = waited / seconds
        return logs | {
            "step": run.step,
            "images_per_second": images / seconds,
            "skipped_steps": self.skipped_steps,
        }

    def _run_once(
        self, run: RunState, end: int
    ) -> tuple[dict[str, float], StepsTaken, Observation]:
        """Calls the loop once; returns its logs, its result, and what was observed."""
        batch = run.global_batch_size  # of all steps of the call, which ends with the epoch
        count = self._length(run, end)
        traces = self.tracing_count
        start = time.perf_counter()
        results, taken, layers = self._steps(run, count)
        logs = {name: float(value) for name, value in results.items()}
        done, finite = int(taken.done), taken.finite.numpy().all()
        own = [time.perf_counter() - start, run.stop_requested(), *taken.part_norms.numpy()[2:]]
        own += [seconds / done for seconds in taken.seconds.numpy()]
        own += [self._sampler is not None and self._sampler.exploded]
        own += [run.steps_to_boundary(run.step + done)]
        # All workers agree on the time, hence on the length of the next call, and on stopping.
        rows = np.array(gather_from_workers(self._strategy, own))
        self._exploded = bool(rows[:, 7].any())
        self._most_steps = int(rows[:, 8].min())
        elapsed = float(rows[:, 0].mean())
        run.step += done
        run.preempted = run.preempted or bool(rows[:, 1].any())
        traced = traces != self.tracing_count
        if not traced:
            self._timed_images += done * batch
            self._timed_seconds += elapsed
            self.images_per_second = self._timed_images / self._timed_seconds
        logs["images_per_second"] = done * batch / elapsed
        if done > 1 or finite:
            run.skipped_in_a_row = 0
        if not finite:
            run.skipped_in_a_row += 1
            self.skipped_steps += 1
        observation = Observation(
            step=run.step,
            steps=done,
            seconds=elapsed,
            traced=traced,
            global_batch_size=batch,
            gradient_norms=taken.gradient_norms.numpy(),
            workers=[WorkerTimes(*row) for row in rows[:, 3:7].tolist() if any(row)],
            parts=self._part_norms(taken, batch, rows[:, 2].sum()),
            layers=layers,
        )
        if observation.input_wait is not None:
            logs["input_wait"] = observation.input_wait
        return logs, taken, observation

    def _divergence(self, run: RunState, finite: np.ndarray) -> Divergence:
        growth = self._sampler.growth() if self._sampler else None
        return Divergence(run, self._step, self._strategy, finite, growth)

    def _steps(
        self, run: RunState, count: int
    ) -> tuple[dict[str, tf.Tensor], StepsTaken, LayerSample | None]:
        """Calls the loop, and samples the layers if it is their turn."""
        finish_assignments()  # to metrics, and by callbacks
        due = self._layers_every and (run.step + 1) % self._layers_every == 0
        before = self._sampler.before() if self._sampler and due else None
        with told_by_input():
            results, taken = self._call(run.iterator, tf.constant(count))
        layers = None
        if self._sampler and before is not None:
            layers = self._sampler.compared(before, taken.gradient_norms.numpy())
        return results, taken, layers

    def _part_norms(self, taken: StepsTaken, batch: int, squares: float) -> PartNorms | None:
        """Returns the norms of the parts, whose gradients are summands of the whole gradient."""
        replicas = self._strategy.num_replicas_in_sync
        parts = replicas * self._step.parts_of(batch // replicas)
        steps, whole, _ = taken.part_norms.numpy().tolist()
        if parts == 1 or not steps:
            return None
        # g_i is N times its summand: the mean of |g_i|^2 is N^2 / N times the sum of the squares.
        return PartNorms(int(steps), parts, whole, parts * squares)

    def _length(self, run: RunState, end: int) -> int:
        """Returns the number of steps of the next call."""
        length = self._next_length(run.global_batch_size)
        length = min(length, end - run.step, self._most_steps)
        if self._layers_every:
            # A call of one step is sampled, from the step before a multiple of the interval.
            ahead = self._layers_every - run.step % self._layers_every
            length = min(length, max(1, ahead - 1))
        return length

    def _next_length(self, global_batch_size: int) -> int:
        if self._steps_per_loop:
            return self._steps_per_loop
        return max(1, round(LOOP_SECONDS * self.images_per_second / global_batch_size))

    def _loop_in_graph(self, iterator, steps):
        taken = self._step.repeat(iterator, steps)
        rate = keras.ops.convert_to_tensor(self._model.optimizer.learning_rate)
        return results_of(self._model) | {"learning_rate": rate}, taken

"""Warns of what makes a large-batch run fail or waste its devices, as soon as it shows."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

import keras

from tf_lars.tracking import symptoms
from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.noise_scale import NoiseScale
from tf_lars.tracking.observation import LayerSample, Observation


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What is worth a warning.

    Attributes:
      input_wait: Share of the time that a worker waits for its input.
      straggler: Time of the slowest worker over the median of the others.
      calls, seconds: Minimum length of the time over which both are averaged.
      dead_samples: Samples of the layers without a gradient or an update.
      critical_batch: Batch over the gradient noise scale, in the second half of training.
      loss: Loss over the first loss.
      times: Observations in a row for the batch and the loss.
      initial_share: Share of the initial values in batch normalisation's moving averages.
      generalization: Validation loss over training loss, with half of the accuracy or less.
    """

    input_wait: float = 0.2
    straggler: float = 1.5
    calls: int = 10
    seconds: float = 20.0
    dead_samples: int = 5
    critical_batch: float = 2.0
    loss: float = 2.0
    times: int = 10
    initial_share: float = 0.05
    generalization: float = 3.0


class Health(keras.callbacks.Callback):
    """Prints a warning, once for each kind, and writes it to the log.

    | kind | symptom |
    |---|---|
    | `warmup` | the warm-up is shorter than that of the recipe for this batch |
    | `input` | a worker waits for its input |
    | `straggler` | a worker takes longer than the others for its own part of a step |
    | `dead_layer` | a variable has had no gradient or no update for a while |
    | `loss` | the loss has risen above its first value, and stays there |
    | `critical_batch` | in the second half of training, the batch exceeds the noise scale |
    | `batch_norm` | moving averages still hold initial values, or fail in evaluation |

    `Thresholds` has the numbers. The run continues in all cases: values that are not finite end it,
    see `Trainer`.

    Args:
      log: Log to write to.
      total_steps: Steps of the whole run.
      layers_every: Interval of the samples of the layers, in steps.
      worker_names: Names of the workers, in order; by default their numbers.
      warmup: Warm-up of the run and that of its recipe, in epochs; None without a recipe.
      moving_average_momentum: Largest momentum of the statistics of batch normalisation that are
        used in evaluation; None if there are none.
      measure_input: Function that measures the input of this host for a moment, and returns a
        sentence.
      thresholds: What is worth a warning.
      stream: Stream to print to; standard output by default.

    Attributes:
      found: The warnings so far, by kind.
    """

    def __init__(
        self,
        log: MetricLog,
        *,
        total_steps: int,
        layers_every: int = 0,
        worker_names: Sequence[str] = (),
        warmup: tuple[float, float] | None = None,
        moving_average_momentum: float | None = None,
        measure_input: Callable[[], str] | None = None,
        thresholds: Thresholds | None = None,
        stream: TextIO | None = None,
    ):
        super().__init__()
        self._log = log
        self._total_steps = total_steps
        self._layers_every = layers_every
        self._worker_names = worker_names
        self._warmup = warmup
        self._momentum = moving_average_momentum
        self._measure_input = measure_input
        self._limits = thresholds or Thresholds()
        self._stream = stream
        self._times = symptoms.RecentTimes(self._limits.calls, self._limits.seconds)
        self._dead = symptoms.DeadLayers(self._limits.dead_samples)
        self._past_critical = symptoms.InARow(self._limits.times)
        self._late_noise = NoiseScale()
        self._rising = symptoms.InARow(self._limits.times)
        self._first_loss: float | None = None
        self._first_layers: LayerSample | None = None
        self._layers: LayerSample | None = None
        self.found: dict[str, str] = {}

    def on_train_begin(self, logs=None):
        """Checks what is known before the first step."""
        if self._warmup and self._warmup[0] < 0.99 * self._warmup[1]:
            self._warn(
                0,
                "warmup",
                f"the warm-up of {self._warmup[0]:g} epochs is shorter than the "
                f"{self._warmup[1]:g} of the recipe for this batch (--recipe=auto). Large batches "
                "diverge in their first epochs when the rate rises too fast.",
            )

    def on_observation(self, observation: Observation) -> None:
        """Looks at a call of the loop."""
        step = observation.step
        times = self._times.add(observation)
        self._check_input(step, times)
        self._check_straggler(step, times)
        if observation.layers is not None:
            self._layers = observation.layers
            self._first_layers = self._first_layers or observation.layers
            dead = self._dead.add(observation.layers)
            if dead:
                message = symptoms.dead_message(dead, self._limits.dead_samples, self._layers_every)
                self._warn(step, "dead_layer", message)
        if step > self._total_steps / 2:
            self._check_batch(observation)

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if self._first_loss is None:
            self._first_loss = loss
        # Also if it is not a number.
        if not self._rising.add(not loss <= self._limits.loss * self._first_loss):
            return
        grown = ""
        if self._first_layers and self._layers:
            path, factor = symptoms.most_grown(self._first_layers, self._layers)
            grown = (
                f"; the weights that have grown most are {path}, to {factor:.3g} times their norm"
            )
        self._warn(
            int(batch) + 1,
            "loss",
            f"the loss, {loss:.4g}, has risen to more than {self._limits.loss:g} times its first "
            f"value, {self._first_loss:.4g}, and stays there{grown}. Use a lower learning rate "
            "or a longer warm-up.",
        )

    def on_epoch_end(self, epoch, logs=None):
        """Looks at an evaluation."""
        logs = logs or {}
        if self._momentum is None or "val_loss" not in logs:
            return
        step = int(logs["step"])
        share = symptoms.initial_share(self._momentum, step)
        if share > self._limits.initial_share:
            self._warn(
                step,
                "batch_norm",
                f"batch normalisation's moving averages still hold {share:.0%} of their initial "
                f"values after {step:,} steps (momentum {self._momentum:g}), so evaluations say "
                "little. Estimate the statistics from training images with "
                "--batch_norm_examples=8192.",
            )
        elif self._fails_in_evaluation(logs):
            self._warn(
                step,
                "batch_norm",
                f"validation loss {logs['val_loss']:.4g} and top-1 {logs['val_top1']:.1%} against "
                f"{logs['loss']:.4g} and {logs['top1']:.1%} in training: the network overfits, or "
                "the moving averages of batch normalisation do not fit. To tell which, evaluate "
                "with --batch_norm_examples=8192.",
            )

    def _fails_in_evaluation(self, logs: Mapping[str, float]) -> bool:
        if "val_top1" not in logs or "top1" not in logs:
            return False
        loss_is_high = not logs["val_loss"] <= self._limits.generalization * logs["loss"]
        return loss_is_high and logs["val_top1"] < logs["top1"] / 2

    def _check_input(self, step: int, times: Sequence[symptoms.WorkerTimes]) -> None:
        worker = symptoms.starved(times, self._limits.input_wait)
        if worker is None or "input" in self.found:
            return
        measured = f" {self._measure_input()}" if self._measure_input else ""
        self._warn(
            step,
            "input",
            f"{self._name(worker)} waits for its input in {times[worker].input_share:.0%} of the "
            f"time, {1e3 * times[worker].input:.3g} of {1e3 * times[worker].total:.3g} ms per "
            f"step.{measured} More CPU cores per device, smaller stored images (docs/input.md) or "
            "a faster storage help.",
        )

    def _check_straggler(self, step: int, times: Sequence[symptoms.WorkerTimes]) -> None:
        found = symptoms.straggler(times, self._limits.straggler)
        if found is None:
            return
        worker, ratio = found
        own = times[worker].compute + times[worker].update
        self._warn(
            step,
            "straggler",
            f"{self._name(worker)} takes {ratio:.2g} times as long as the median of the other "
            f"workers for its own part of a step, {1e3 * own:.3g} ms, and all others wait for it. "
            "Look for other processes, a lower clock or a hot device on that host.",
        )

    def _check_batch(self, observation: Observation) -> None:
        # The averages of the whole run remember the large gradients of its beginning.
        norms, batch = observation.parts, observation.global_batch_size
        if norms is None:
            return
        self._late_noise.follow(batch, norms.parts)
        self._late_noise.add(norms)
        estimate = self._late_noise.estimate(batch, norms.parts)
        scale = estimate.scale if estimate else None
        above = scale is not None and batch > self._limits.critical_batch * scale
        if self._past_critical.add(above) and scale is not None:
            self._warn(
                observation.step,
                "critical_batch",
                f"the global batch of {batch:,} is {batch / scale:.2g} times the gradient "
                f"noise scale of {scale:,.0f} examples in the second half of training: a "
                "smaller batch would need fewer examples, and more devices save little time.",
            )

    def _name(self, worker: int) -> str:
        if worker < len(self._worker_names):
            return f"worker {worker} ({self._worker_names[worker]})"
        return f"worker {worker}"

    def _warn(self, step: int, kind: str, message: str) -> None:
        if kind not in self.found:
            self.found[kind] = message
            print(f"warning: {message}", file=self._stream or sys.stdout, flush=True)
            self._log.line(step, warning=kind, message=message)

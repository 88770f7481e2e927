"""How fast a run is, and what it waits for."""

import keras

from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.observation import Observation, is_due


class ThroughputLogger(keras.callbacks.Callback):
    """Writes the rate of a run; calls that traced the loop are left out.

    | tag | unit | meaning |
    |---|---|---|
    | `throughput/images_per_second` | images/s | rate of all devices, without evaluation |
    | `throughput/images_per_second_per_device` | images/s | the same over the number of devices |
    | `throughput/mfu` | share | FLOPs of forward and backward pass over the devices' peak |
    | `throughput/input_wait` | share | time in which the slowest input was waited for |
    | `throughput/slowest_step_seconds` | s | the slowest worker's own part of a step |
    | `throughput/fastest_step_seconds` | s | the fastest worker's |

    All are means over a call of the loop, written at each interval. A worker's own part is a step
    without the all-reduce, in which it waits for others. On TPUs there are only rates.

    Args:
      log: Log to write to.
      devices: Number of devices of the job.
      training_flops: FLOPs of a forward and a backward pass per image; see `models.flops`.
      peak_flops: FLOP/s of one device, None if unknown.
      every: Interval in steps; by default each call of the loop.
    """

    def __init__(
        self,
        log: MetricLog,
        *,
        devices: int,
        training_flops: float = 0.0,
        peak_flops: float | None = None,
        every: int | None = None,
    ):
        super().__init__()
        self._log = log
        self._devices = devices
        self._training_flops = training_flops
        self._peak_flops = peak_flops
        self._every = every

    def on_observation(self, observation: Observation) -> None:
        """Writes the rates of a call of the loop."""
        if observation.traced or not is_due(observation.step, self._every):
            return
        rate = observation.images_per_second
        values = {"images_per_second": rate, "images_per_second_per_device": rate / self._devices}
        if self._peak_flops and self._training_flops:
            values["mfu"] = rate * self._training_flops / (self._devices * self._peak_flops)
        if observation.workers:
            alone = [worker.alone for worker in observation.workers]
            values["input_wait"] = observation.input_wait or 0.0
            values["slowest_step_seconds"] = max(alone)
            values["fastest_step_seconds"] = min(alone)
        self._log.scalars(
            observation.step, {f"throughput/{name}": value for name, value in values.items()}
        )

"""The gradient noise scale over a run."""

import keras

from tf_lars.tracking.metric_log import Line, MetricLog
from tf_lars.tracking.noise_scale import Estimate, NoiseScale
from tf_lars.tracking.observation import Observation, is_due

_STATE = "noise_state"


class NoiseMeter(keras.callbacks.Callback):
    """Writes the estimates of `tf_lars.tracking.noise_scale`, whose parts are replicas and
    micro-batches. A single device without micro-batches has one part, and no estimate.

    | tag | unit | meaning |
    |---|---|---|
    | `noise/scale` | examples | B_simple, while \\|G\\|^2 exceeds its own noise |
    | `noise/trace` | | tr(S), average |
    | `noise/gradient_squared` | | \\|G\\|^2, average; it may be negative |
    | `noise/batch` | examples | global batch in use |
    | `noise/adascale_gain` | | speedup by N times the batch, from 1 to N |

    All are written at each interval. A resumed run continues from the averages in metrics.jsonl.

    Args:
      log: Log to write to.
      every: Interval in steps; by default each call of the loop.

    Attributes:
      latest: The latest estimate; None before the first.
    """

    def __init__(self, log: MetricLog, *, every: int | None = None):
        super().__init__()
        self._log = log
        self._every = every
        self._average = NoiseScale()
        self.latest: Estimate | None = None

    def on_train_begin(self, logs=None):
        """Takes up the averages where an interrupted run has left them."""
        states = [line[_STATE] for line in self._log.earlier() if _STATE in line]
        if states:
            self._average = NoiseScale(**states[-1])

    def on_observation(self, observation: Observation) -> None:
        """Adds the steps of a call of the loop, and writes the estimates."""
        norms = observation.parts
        if norms is None:
            return
        self._average.follow(observation.global_batch_size, norms.parts)
        self._average.add(norms)
        self.latest = self._average.estimate(observation.global_batch_size, norms.parts)
        if self.latest is None or not is_due(observation.step, self._every):
            return
        values = {
            "scale": self.latest.scale,
            "trace": self.latest.trace,
            "gradient_squared": self.latest.gradient_squared,
            "batch": observation.global_batch_size,
            "adascale_gain": self.latest.adascale_gain,
        }
        known = {f"noise/{name}": value for name, value in values.items() if value is not None}
        state: Line = {_STATE: vars(self._average)}
        self._log.scalars(observation.step, known, **state)

"""Norms of the whole gradient, weights and update."""

import keras
import numpy as np

from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.observation import Observation, is_due


class Norms(keras.callbacks.Callback):
    """Writes the norms over all trainable variables.

    | tag | when | meaning |
    |---|---|---|
    | `norms/gradient` | interval | norm of the global batch's gradient, before any clipping |
    | `norms/weights` | sample of the layers | norm of the weights before the step |
    | `norms/update_to_weight` | sample of the layers | norm of the step over that of the weights |

    Args:
      log: Log to write to.
      every: Interval in steps; by default each call of the loop.
    """

    def __init__(self, log: MetricLog, *, every: int | None = None):
        super().__init__()
        self._log = log
        self._every = every

    def on_observation(self, observation: Observation) -> None:
        """Writes the norms after a call of the loop."""
        values = {}
        if is_due(observation.step, self._every):
            values["norms/gradient"] = observation.gradient_norm
        layers = observation.layers
        if layers is not None:
            weights = float(np.linalg.norm(layers.weight_norm.astype(np.float64)))
            update = float(np.linalg.norm(layers.update_norm.astype(np.float64)))
            values["norms/weights"] = weights
            values["norms/update_to_weight"] = update / weights if weights else 0.0
        if values:
            self._log.scalars(observation.step, values)

"""Samples the weights and the update of each layer in one step, for any optimizer."""

import keras
import numpy as np
import tensorflow as tf

from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.variables import native_variable, variable_path
from tf_lars.tracking.observation import LayerSample

EXPLODED = 1e4
"""Norm of a variable over its norm at the beginning, or over 1 if that is larger, at which training
has diverged even if all values are finite: batch normalisation bears any weights, but learns
nothing with these. In runs that learn, norms grow by a factor of 2 to 20."""


class LayerSampler:
    """Compares the weights before and after a step.

    The step itself is the same program as all others, so that sampling changes no bit of it.

    Args:
      model: Compiled model whose step has not been traced yet.
      strategy: Strategy in whose scope it was created.

    Attributes:
      exploded: Whether the norm of a variable had exploded before the latest step that was sampled.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self._model = model
        self._optimizer = model.optimizer
        if isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer):
            self._optimizer = self._optimizer.inner_optimizer
        if isinstance(self._optimizer, LARS):
            with strategy.scope():
                self._optimizer.record_trust_ratios()
        self._copy = tf.function(self._copied, autograph=False)
        self._norms = tf.function(self._compared, autograph=False)
        self._first: np.ndarray | None = None
        self.exploded = False

    def begin(self) -> None:
        """Keeps the norms of the weights at the beginning of training, for `growth`."""
        if self._first is None:
            self._first = self._norms(self._copy()).numpy()[0]

    def growth(self) -> np.ndarray | None:
        """Returns each variable's norm over that at the beginning, or over 1 if that is larger.

        None before `begin`.
        """
        if self._first is None:
            return None
        now = self._norms(self._copy()).numpy()[0]
        return now / np.maximum(self._first, 1)

    def before(self) -> list[tf.Tensor]:
        """Returns a copy of the weights before a step."""
        return self._copy()

    def compared(self, before: list[tf.Tensor], gradient_norms: np.ndarray) -> LayerSample:
        """Returns the sample of a step.

        Args:
          before: Weights before the step.
          gradient_norms: Norms of its gradients.
        """
        weights, updates = self._norms(before).numpy()
        ratios = self._optimizer.trust_ratios() if isinstance(self._optimizer, LARS) else None
        assert self._first is not None
        self.exploded = bool((weights > EXPLODED * np.maximum(self._first, 1)).any())
        paths = [variable_path(v) for v in self._model.trainable_variables]
        return LayerSample(paths, weights, updates, gradient_norms, ratios)

    def _copied(self) -> list[tf.Tensor]:
        # A value read from a variable may be a view of it.
        return [tf.raw_ops.DeepCopy(x=v) for v in self._weights()]

    def _compared(self, before: list[tf.Tensor]) -> tf.Tensor:
        """Returns norms of the weights before, and of their changes, float32 `[2, variables]`."""
        pairs = list(zip(before, self._weights(), strict=True))
        weights = [_norm(old) for old, _ in pairs]
        changes = [_norm(new - old) for old, new in pairs]
        return tf.stack([tf.stack(weights), tf.stack(changes)])

    def _weights(self) -> list[tf.Tensor]:
        variables = map(native_variable, self._model.trainable_variables)
        return [tf.convert_to_tensor(variable) for variable in variables]


def _norm(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(2 * tf.nn.l2_loss(tf.cast(values, tf.float32)))

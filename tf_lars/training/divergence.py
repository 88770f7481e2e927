"""Finds the layer at which training has diverged, after a step whose gradients are not finite."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_lars.distribute.replicas import distribute, gather_from_workers, slice_batch
from tf_lars.errors import DivergedError
from tf_lars.optimizers.variables import variable_path
from tf_lars.private_api import call_model
from tf_lars.training.batch import Batch
from tf_lars.training.layer_outputs import outputs_of_layers
from tf_lars.training.layer_samples import EXPLODED
from tf_lars.training.mean_loss import averaged_over, mean_loss
from tf_lars.training.run_state import RunState
from tf_lars.training.step import TrainingStep


@dataclasses.dataclass(frozen=True)
class Divergence:
    """A run that cannot continue, on all workers alike.

    Since the bad steps were skipped, the weights are still those with which the first of them was
    computed. Every worker repeats the forward pass of its part of that batch.

    Attributes:
      run: State of the run.
      step: Training step.
      strategy: Strategy of the replicas.
      finite: Whether the last gradient of each trainable variable was finite, bool `[variables]`.
      growth: See `LayerSampler.growth`; None if it is unknown.
    """

    run: RunState
    step: TrainingStep
    strategy: tf.distribute.Strategy
    finite: np.ndarray
    growth: np.ndarray | None = None

    def not_finite(self) -> DivergedError:
        """Returns the error, with the first layer and the first step that are not finite."""
        bad = [path for path, finite in zip(self._paths, self.finite, strict=True) if not finite]
        count = max(self.run.skipped_in_a_row, 1)
        first_step = self.run.step - count + 1
        steps = "1 step" if count == 1 else f"{count} steps in a row"
        # If all outputs are finite, it is the backward pass, which meets the last layers first.
        where = self._first_layer(first_step) or f"the gradient of {bad[-1]}"
        grown = ""
        if self.growth is not None and self.growth.max() > 100:
            grown = f", where {self._most_grown}"
        return self._error(
            "values must be finite",
            f"Inf or NaN in {steps}, from step {first_step:,} on, in {len(bad)} of "
            f"{len(self._paths)} gradients, first in {where}{grown}",
        )

    def exploded(self) -> DivergedError:
        """Returns the error of weights that are finite, but beyond use."""
        return self._error(
            f"the norm of weights must stay below {EXPLODED:,.0f} times that at the start",
            f"step {self.run.step:,}, before which {self._most_grown}",
        )

    def _error(self, rule: str, received: str) -> DivergedError:
        rate = float(keras.ops.convert_to_numpy(self.run.model.optimizer.learning_rate))
        return DivergedError(
            f"Training has diverged: {rule}. Received: {received}, at the learning rate "
            f"{rate:.4g}. Use a lower learning rate or a longer warm-up; if these are a recipe's, "
            "look for a bad image or label."
        )

    @property
    def _paths(self) -> list[str]:
        return [variable_path(v) for v in self.run.model.trainable_variables]

    @property
    def _most_grown(self) -> str:
        assert self.growth is not None
        most = int(np.argmax(self.growth))
        return f"{self._paths[most]} has grown to {self.growth[most]:.3g} times its norm"

    def _first_layer(self, first_step: int) -> str:
        """Returns what is not finite first in the forward pass, on any worker; "" if all is."""
        names: list[str] = []

        def replica(element: Any) -> tf.Tensor:
            batch = self.step.unpack(element)
            size = batch.size // self.step.parts_of(batch.size)
            flags, names[:] = self._finite_outputs(slice_batch(batch, 0, size))
            for i in tf.range(1, self.step.parts_of(batch.size)):
                flags = tf.minimum(flags, self._finite_outputs(slice_batch(batch, i, size))[0])
            return flags

        replicas = tf.function(lambda element: self.strategy.run(replica, args=(element,)))
        flags = self.strategy.experimental_local_results(replicas(self._batch(first_step)))
        not_finite = np.flatnonzero(np.min([one.numpy() for one in flags], axis=0) == 0)
        own = not_finite[0] if not_finite.size else len(names)
        first = min(row[0] for row in gather_from_workers(self.strategy, [float(own)]))
        return names[round(first)] if first < len(names) else ""

    def _finite_outputs(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Returns whether each layer's output is finite, float32 0 or 1, and the layers' paths."""
        model = self.run.model
        with outputs_of_layers(model) as outputs, averaged_over(batch, one_pass=False):
            y_pred = call_model(model, batch.x, training=True)
            loss = mean_loss(model, batch, y_pred, training=True)
        inputs = [("the input", t) for t in tf.nest.flatten(batch.x) if t.dtype.is_floating]
        layers = [(f"the output of {path}", tensor) for path, tensor in outputs]
        outputs = [*inputs, *layers, ("the loss", loss)]
        flags = [tf.reduce_all(tf.math.is_finite(tf.cast(o, tf.float32))) for _, o in outputs]
        return tf.cast(tf.stack(flags), tf.float32), [what for what, _ in outputs]

    def _batch(self, step: int) -> Any:
        """Returns the batch of a step, or the first one of a source that is read once."""
        data = self.run.data
        if hasattr(data, "first_batch"):  # of what cannot be read at any step
            return next(iter(distribute(self.strategy, data.first_batch)))
        return next(iter(distribute(self.strategy, lambda c: data.dataset(c, step - 1, step))))

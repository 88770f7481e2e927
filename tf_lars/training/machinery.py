"""What a `Trainer` builds for a model as it is compiled now, and traces once."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_lars.data import order
from tf_lars.distribute.batch_norm import BatchNormStatistics
from tf_lars.private_api import compiled_parts, layers_of
from tf_lars.tracking.observation import Observe
from tf_lars.training.batch import Unpack
from tf_lars.training.evaluator import EvaluationData, Evaluator
from tf_lars.training.layer_samples import LayerSampler
from tf_lars.training.loop import TrainingLoop
from tf_lars.training.run_state import TrainingData, distributed, steps_over
from tf_lars.training.step import TrainingStep
from tf_lars.training.weight_average import WeightAverage


@dataclasses.dataclass(frozen=True)
class ModelState:
    """What traced functions depend on: a change of it means that they must be traced again.

    Attributes:
      compiled: What `compile` has set.
      trainable: The trainable variables, and whether each layer is trainable; None if the model is
        not built yet.
    """

    compiled: list[Any]
    trainable: list[Any] | None

    @classmethod
    def of(cls, model: keras.Model) -> "ModelState":
        """Returns the state of a compiled model."""
        trainable = None
        if model.built:
            variables = model.trainable_variables
            trainable = [*variables, *(layer.trainable for layer in layers_of(model))]
        return cls(compiled_parts(model), trainable)

    def is_same(self, other: "ModelState") -> bool:
        """Returns whether functions that were traced for one state serve the other."""
        if not _identical(self.compiled, other.compiled):
            return False
        if self.trainable is None or other.trainable is None:
            return True
        return _identical(self.trainable, other.trainable)


def _identical(one: list[Any], other: list[Any]) -> bool:
    # Objects are compared by identity: variables have no other equality.
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


class Machinery:
    """Step, loop and evaluation of a model as it is compiled now.

    Args:
      model: Compiled model.
      strategy: Strategy in whose scope it was created.
      unpack: Function that turns an element of the data into a `Batch`.
      steps_per_loop: See `Trainer`.
      max_skipped_steps: See `Trainer`.
      evaluate_average: See `Trainer`.
      observe: See `Trainer`.
      **of_step: Further arguments of `TrainingStep`.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        unpack: Unpack,
        *,
        steps_per_loop: int | None,
        max_skipped_steps: int,
        evaluate_average: bool,
        observe: Observe,
        **of_step: Any,
    ):
        self._strategy = strategy
        self.evaluator = Evaluator(model, strategy, unpack)
        self.batch_norm = BatchNormStatistics(model, strategy, lambda element: unpack(element).x)
        self.average = WeightAverage(model.optimizer, strategy) if evaluate_average else None
        self.step = TrainingStep(
            model, strategy, unpack, observe_parts=observe.noise_scale, **of_step
        )
        self.loop = TrainingLoop(
            model,
            strategy,
            self.step,
            steps_per_loop=steps_per_loop,
            max_skipped_steps=max_skipped_steps,
            sampler=LayerSampler(model, strategy) if observe.layers_every else None,
            layers_every=observe.layers_every,
        )

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within this context, the model holds the weights to evaluate."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def validation(
        self, data: TrainingData, validation: EvaluationData | None, batch_norm_examples: int
    ) -> Callable[[], dict[str, float]]:
        """Returns a function that evaluates the model, or returns {} without validation data.

        Args:
          data: Training data.
          validation: Data to evaluate.
          batch_norm_examples: See `Trainer.fit`.
        """
        if validation is None:
            return dict
        settle_batch_norm = self._batch_norm_settler(data, batch_norm_examples)

        def validate() -> dict[str, float]:
            with self.averaged_weights():
                settle_batch_norm()
                logs = self.evaluator.run(validation)
            return {f"val_{name}": value for name, value in logs.items()}

        return validate

    def _batch_norm_settler(self, data: TrainingData, examples: int) -> Callable[[], None]:
        """Returns a function that prepares batch normalisation statistics for evaluation."""
        if not examples:
            return self.batch_norm.average
        most = data.num_examples or examples
        start = max(data.shape_changes, default=0)  # images of the size of the last epochs
        batch = steps_over(data).batch_size(start)
        steps = order.evaluation_steps(min(examples, most), batch)
        dataset = distributed(self._strategy, data, start, start + steps)
        share = batch // self._strategy.num_replicas_in_sync
        return lambda: self.batch_norm.estimate(dataset, steps, self.step.parts_of(share))

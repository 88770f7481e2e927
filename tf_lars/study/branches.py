"""Branches of a run: training continued from one of its checkpoints with other batches.

All branches take the same examples in the same order, in parts of the same size, so that batch
normalisation normalises alike, at the learning rate of the checkpoint scaled by the optimizer's
rule. The velocity, which contains the rate, is scaled with it (the momentum correction of Goyal et
al. 2017, arXiv:1706.02677, section 3).
"""

import dataclasses
import math
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from tf_lars.errors import DivergedError
from tf_lars.study.adjustable_schedule import AdjustableRate
from tf_lars.tracking.noise_scale import NoiseScale
from tf_lars.tracking.observation import Observation
from tf_lars.training.run_state import TrainingData
from tf_lars.training.trainer import Trainer

BLOCKS = 8
"""Number of parts of a branch whose losses are averaged separately."""

SMOOTHED = 2
"""Number of parts at the end of a branch over which the loss is smoothed."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch.

    Attributes:
      step: Step of the checkpoint.
      repeat: Which examples it takes: those of repeat 0 come after the checkpoint's, and so on.
      global_batch_size: Its batch.
    """

    step: int
    repeat: int
    global_batch_size: int


@dataclasses.dataclass(frozen=True)
class BranchResult:
    """The outcome of a branch.

    Attributes:
      branch: The branch.
      losses: Training loss of each of its `BLOCKS` parts; inf if it diverged.
      noise_scale: Gradient noise scale over the branch; None if it cannot be estimated.
      seconds: Seconds that it took.
    """

    branch: Branch
    losses: tuple[float, ...]
    noise_scale: float | None
    seconds: float

    @property
    def loss(self) -> float:
        """Training loss over the last quarter of its examples; inf if it diverged."""
        return sum(self.losses[-SMOOTHED:]) / SMOOTHED


class _Stretch:
    """Examples of a stretch of training data, in `BLOCKS` epochs.

    Args:
      data: Training data with the batch of the branch.
      batch: That batch.
      first_example: Position of the first example in the order of the data, a multiple of the
        batch.
      examples: Number of examples, a multiple of `BLOCKS` times the batch.
    """

    shape_changes = ()

    def __init__(self, data: TrainingData, batch: int, first_example: int, examples: int):
        self.global_batch_size = batch
        self.num_examples = examples // BLOCKS
        self._data = data
        self._first = first_example // batch

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns the batches of some steps of the branch."""
        return self._data.dataset(context, self._first + first_step, self._first + last_step)


class _Noise(keras.callbacks.Callback):
    """Collects the gradient noise scale of a branch."""

    def __init__(self):
        super().__init__()
        self.average = NoiseScale()
        self.parts = 0

    def on_observation(self, observation: Observation) -> None:
        """Adds the steps of a call of the loop."""
        if observation.parts:
            self.average.add(observation.parts)
            self.parts = observation.parts.parts


class BranchRunner:
    """Runs branches, one after the other, with one trainer.

    Args:
      trainer: Trainer whose micro-batch is a replica's share of the smallest batch, and whose
        optimizer has the schedule `rate`.
      rate: Schedule of the optimizer.
      restore: Function that restores the checkpoint of a step into the model.
      data: Function that returns the training data with a batch.
      examples: Number of examples of a branch.
      used: Number of examples before the checkpoint, by its step.
      rate_at: Learning rate of the run after a step.
      scale: Function `(rate, batch, reference_batch)` that scales a rate, see `tf_lars.scaling`.
      batch_at: Batch of the run at a step, for which the rate there is.
    """

    def __init__(
        self,
        trainer: Trainer,
        rate: AdjustableRate,
        *,
        restore: Callable[[int], None],
        data: Callable[[int], TrainingData],
        examples: int,
        used: Callable[[int], int],
        rate_at: Callable[[int], float],
        scale: Callable[[float, int, int], float],
        batch_at: Callable[[int], int],
    ):
        self._trainer = trainer
        self._rate = rate
        self._restore = restore
        self._data = data
        self._examples = examples
        self._used = used
        self._rate_at = rate_at
        self._scale = scale
        self._batch_at = batch_at

    def run(self, branch: Branch) -> BranchResult:
        """Trains a branch."""
        start = time.perf_counter()
        batch = branch.global_batch_size
        # A multiple of each batch, which divide the examples of a branch.
        first = -(-self._used(branch.step) // self._examples) + branch.repeat
        stretch = _Stretch(self._data(batch), batch, first * self._examples, self._examples)
        self._begin(branch)
        noise = _Noise()
        losses = (math.inf,) * BLOCKS
        try:
            history = self._trainer.fit(stretch, epochs=BLOCKS, callbacks=[noise], verbose=0)
            found = [entry["loss"] for entry in history]
            losses = tuple(loss if math.isfinite(loss) else math.inf for loss in found)
        except DivergedError:
            pass
        estimate = noise.average.estimate(batch, noise.parts) if noise.parts else None
        return BranchResult(
            branch,
            losses,
            estimate.scale if estimate else None,
            time.perf_counter() - start,
        )

    def _begin(self, branch: Branch) -> None:
        """Restores the checkpoint, and scales the rate and the velocity."""
        self._restore(branch.step)
        before = self._rate_at(branch.step)
        rate = self._scale(before, branch.global_batch_size, self._batch_at(branch.step))
        self._rate.set(rate)
        for variable in self._trainer.model.optimizer.variables:
            if variable.path.endswith("velocity") and before:
                variable.assign(variable * (rate / before))

"""State of one call of `Trainer.fit`: its epochs, its step and its history."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data import order
from tf_lars.errors import Preempted
from tf_lars.training.checkpoints import CheckpointStore


class TrainingData(Protocol):
    """Data for `Trainer.fit`, such as `tf_lars.data.image_input.TrainingInput`."""

    @property
    def num_examples(self) -> int:
        """Number of examples in an epoch."""

    @property
    def global_batch_size(self) -> int:
        """Number of examples per optimizer step, over all replicas."""

    @property
    def shape_changes(self) -> Sequence[int]:
        """Steps after which the shape of the batches changes; each is the end of an epoch."""

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns one worker's batches for a range of steps, one per local replica and step.

        All have the same shape; the range never extends beyond the next change of shape.
        """


@dataclasses.dataclass
class RunState:
    """State of a run, which `Trainer.fit` reads and advances.

    Attributes:
      model: Model in training; its `stop_training` ends the run.
      data: Training data.
      epoch_ends: Last step of each epoch.
      step: Number of global batches trained on.
      history: One entry per epoch, including those before a resumption.
      callbacks: Keras callbacks.
      checkpoints: Store in which the run is saved, or None.
      stop_requested: Function that returns whether this process has been asked to stop.
      epochs_between_evaluations: Interval of evaluations in epochs; the last is always evaluated.
      iterator: Iterator over the training batches.
      skipped_in_a_row: Number of consecutive steps whose gradients were not finite.
      preempted: Whether a worker has been asked to stop.
      saved: Whether the newest step has been saved.
    """

    model: keras.Model
    data: TrainingData
    epoch_ends: list[int]
    step: int
    history: list[dict[str, float]]
    callbacks: keras.callbacks.CallbackList
    checkpoints: CheckpointStore | None
    stop_requested: Callable[[], bool]
    epochs_between_evaluations: int
    iterator: Any = None
    skipped_in_a_row: int = 0
    preempted: bool = False
    saved: bool = False

    def __post_init__(self):
        data = self.data
        self._epochs_done = order.whole_epochs(self.step, data.num_examples, data.global_batch_size)

    @property
    def last_step(self) -> int:
        """Step after which the run ends."""
        return self.epoch_ends[-1]

    def epochs_left(self) -> Iterator[tuple[int, int]]:
        """Yields the number (from 1) and the last step of each remaining epoch, until stopped.

        Of several epochs that end in the same step, only the last is yielded.
        """
        epoch_of = {end: epoch for epoch, end in enumerate(self.epoch_ends, start=1)}
        for end, epoch in epoch_of.items():
            if end > self.step and not self.model.stop_training:
                yield epoch, end
                self._epochs_done = epoch

    def evaluation_is_due(self, epoch: int, end: int) -> bool:
        """Returns whether to evaluate the model after the steps of an epoch."""
        if self.stopped_within(end):
            return False
        interval = self.epochs_between_evaluations
        crossed = epoch // interval > self._epochs_done // interval
        return crossed or end == self.last_step or self.model.stop_training

    def stopped_within(self, end: int) -> bool:
        """Returns whether a stop request has cut an epoch short, with no time to evaluate."""
        return self.preempted and self.step != end

    def ended_by_callback(self, end: int) -> bool:
        """Returns whether training was stopped other than by a request within an epoch."""
        return self.model.stop_training and not self.stopped_within(end)

    def shape_change(self) -> int:
        """Returns the step after which the batches next change shape, or the last step."""
        later = (change for change in self.data.shape_changes if change > self.step)
        return min([*later, self.last_step])

    def record(self, logs: dict[str, float], epoch: int, end: int) -> None:
        """Adds an epoch, or its part before a stop, to the history, and saves a checkpoint.

        The history in a checkpoint holds complete epochs only; diverged weights are never saved.
        """
        whole = self.step == end
        passes = self.step * self.data.global_batch_size / self.data.num_examples
        self.history.append(logs | {"epoch": epoch if whole else passes})
        self.saved = False
        if self.checkpoints and np.isfinite(logs["loss"]):
            history = self.history if whole else self.history[:-1]
            self.saved = self.checkpoints.save(self.model, self.step, history)

    def raise_if_preempted(self) -> None:
        """Raises `Preempted` if a request has stopped the run before its end."""
        if self.preempted and self.step < self.last_step:
            raise Preempted(
                f"stopped after step {self.step:,} of {self.last_step:,}"
                + ("" if self.saved else ", not saved")
            )

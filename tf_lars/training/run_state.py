"""Where one call of `Trainer.fit` stands: its epochs, its step, and what has been recorded."""

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
    """What `Trainer.fit` trains on; `tf_lars.data.image_input.TrainingInput` is one."""

    @property
    def num_examples(self) -> int:
        """Examples in an epoch."""

    @property
    def global_batch_size(self) -> int:
        """Examples per optimizer step over all replicas."""

    @property
    def shape_changes(self) -> Sequence[int]:
        """Steps, each the end of an epoch, before which the shape of the batches changes."""

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns one worker's batches, one per local replica, for those steps.

        All have the shape of the first; the range never extends beyond the next change.
        """


@dataclasses.dataclass
class RunState:
    """The state of a run that `Trainer.fit` reads and advances.

    Attributes:
      model: in training; its `stop_training` ends the run.
      data: training data.
      epoch_ends: the step after which each epoch ends, by epoch.
      step: global batches trained on.
      history: an entry per epoch, those before a resumption included.
      callbacks: of Keras.
      checkpoints: where the run is saved, or None.
      stop_requested: whether this process has been asked to stop.
      epochs_between_evaluations: evaluate after every this many epochs, and after the last.
      iterator: over the training batches.
      skipped_in_a_row: steps in a row whose gradients were not finite.
      preempted: whether a worker has been asked to stop.
      saved: whether the newest step has been saved.
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
        """The step after which the run ends."""
        return self.epoch_ends[-1]

    def epochs_left(self) -> Iterator[tuple[int, int]]:
        """Yields each epoch that is left, from 1, and its last step, until training is stopped.

        Of epochs that end in the same step, only the last is yielded.
        """
        epoch_of = {end: epoch for epoch, end in enumerate(self.epoch_ends, start=1)}
        for end, epoch in epoch_of.items():
            if end > self.step and not self.model.stop_training:
                yield epoch, end
                self._epochs_done = epoch

    def evaluation_is_due(self, epoch: int, end: int) -> bool:
        """Returns whether the model is to be evaluated after the steps of an epoch."""
        if self.stopped_within(end):
            return False
        interval = self.epochs_between_evaluations
        crossed = epoch // interval > self._epochs_done // interval
        return crossed or end == self.last_step or self.model.stop_training

    def stopped_within(self, end: int) -> bool:
        """Returns whether a request to stop has cut an epoch short: no time to evaluate."""
        return self.preempted and self.step != end

    def ended_by_callback(self, end: int) -> bool:
        """Returns whether training has been stopped, and not by a request that is in a hurry."""
        return self.model.stop_training and not self.stopped_within(end)

    def shape_change(self) -> int:
        """Returns the step before which the batches change their shape, or the last step."""
        later = (change for change in self.data.shape_changes if change > self.step)
        return min([*later, self.last_step])

    def record(self, logs: dict[str, float], epoch: int, end: int) -> None:
        """Adds an epoch, or the part of one that a stop has left, to the history, and saves it.

        A checkpoint holds whole epochs of history only, and never weights that have diverged.
        """
        whole = self.step == end
        passes = self.step * self.data.global_batch_size / self.data.num_examples
        self.history.append(logs | {"epoch": epoch if whole else passes})
        self.saved = False
        if self.checkpoints and np.isfinite(logs["loss"]):
            history = self.history if whole else self.history[:-1]
            self.saved = self.checkpoints.save(self.model, self.step, history)

    def raise_if_preempted(self) -> None:
        """Raises `Preempted` where a request has stopped the run before its end."""
        if self.preempted and self.step < self.last_step:
            raise Preempted(
                f"stopped after step {self.step:,} of {self.last_step:,}"
                + ("" if self.saved else ", not saved")
            )

"""State of one call of `Trainer.fit`: its epochs, its step and its history."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data import order
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.distribute.replicas import distribute
from tf_lars.errors import Preempted
from tf_lars.tracking.observation import Observation
from tf_lars.training.checkpoints import CheckpointStore

MANY_STEPS = 2**24
"""More steps than a call of the loop takes; float32 has it exactly."""


class TrainingData(Protocol):
    """Data of this package for `Trainer.fit`, such as `tf_lars.data.image_input.TrainingInput`.

    Data whose epochs are a whole number of steps have this number as `steps`.
    """

    @property
    def num_examples(self) -> int:
        """Number of examples in an epoch."""

    @property
    def global_batch_size(self) -> int | BatchSizeSchedule:
        """Number of examples per optimizer step, over all replicas, or a schedule of it."""

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
      evaluations: Interval of evaluations in epochs, or numbers of epochs from 1; the last is
        always evaluated.
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
    evaluations: int | Sequence[int]
    iterator: Any = None
    skipped_in_a_row: int = 0
    preempted: bool = False
    saved: bool = False

    def __post_init__(self):
        self._steps = steps_over(self.data)
        self._epochs_done = int(passes(self.data, self.step))

    @property
    def global_batch_size(self) -> int:
        """Number of examples in the next step, over all replicas."""
        return self._steps.batch_size(self.step)

    def examples_since(self, step: int) -> int:
        """Returns the number of examples trained on since a step."""
        return self._steps.position(self.step) - self._steps.position(step)

    @contextlib.contextmanager
    def batches(self) -> Iterator[None]:
        """Context at whose end the iterator is released, immediately if the end is an error.

        See `tf_lars.data.input_errors`: the interpreter may end next.
        """
        try:
            yield
        except BaseException:
            self.iterator = None
            gc.collect()  # TensorFlow's iterators are parts of cycles
            raise
        finally:
            self.iterator = None

    def open_batches(self, strategy: tf.distribute.Strategy, end: int) -> None:
        """Opens the batches of the next steps, if none are open that serve them.

        Args:
          strategy: Strategy of the replicas.
          end: Last step of the epoch.
        """
        is_anew = getattr(self.data, "is_read_anew_each_epoch", False)
        if is_anew or self.iterator is None or self.step in self.data.shape_changes:
            last = end if is_anew else self.shape_change()
            self.iterator = iter(distributed(strategy, self.data, self.step, last))

    @property
    def last_step(self) -> int:
        """Step after which the run ends."""
        return self.epoch_ends[-1]

    def tell(self, observation: Observation) -> None:
        """Tells the callbacks that want to know what the loop has observed."""
        self._call("on_observation", observation)

    def _call(self, method: str, *arguments: Any) -> None:
        """Calls a method that Keras does not know, of the callbacks that have it."""
        for callback in self.callbacks.callbacks:
            if hasattr(callback, method):
                getattr(callback, method)(*arguments)

    def steps_to_boundary(self, step: int) -> int:
        """Returns how many steps after a step a call of the loop must end, by the callbacks."""
        asked = (getattr(callback, "next_boundary", None) for callback in self.callbacks.callbacks)
        steps = (ask(step) for ask in asked if ask is not None)
        ahead = [one - step for one in steps if one is not None and one > step]
        return min([*ahead, MANY_STEPS])

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
        if isinstance(self.evaluations, int):
            due = epoch // self.evaluations > self._epochs_done // self.evaluations
        else:
            due = any(self._epochs_done < chosen <= epoch for chosen in self.evaluations)
        return due or end == self.last_step or self.model.stop_training

    def stopped_within(self, end: int) -> bool:
        """Returns whether a stop request has cut an epoch short, with no time to evaluate."""
        return self.preempted and self.step != end

    def ended_by_callback(self, end: int) -> bool:
        """Returns whether training was stopped other than by a request within an epoch."""
        return self.model.stop_training and not self.stopped_within(end)

    def with_test_callbacks(
        self, validate: Callable[[], dict[str, float]]
    ) -> Callable[[], dict[str, float]]:
        """Returns `validate` with calls of `on_test_begin` and `on_test_end`, as in Keras's `fit`.

        Args:
          validate: Function that evaluates the model; `on_test_end` receives its results without
            their prefix `val_`.
        """

        def validate_with_callbacks() -> dict[str, float]:
            self.callbacks.on_test_begin()
            logs = validate()
            results = {name.removeprefix("val_"): value for name, value in logs.items()}
            self.callbacks.on_test_end(results)
            return logs

        return validate_with_callbacks

    def shape_change(self) -> int:
        """Returns the step after which the batches next change shape, or the last step."""
        later = (change for change in self.data.shape_changes if change > self.step)
        return min([*later, self.last_step])

    def record(self, logs: dict[str, float], epoch: int, end: int, skipped_steps: int) -> None:
        """Adds an epoch, or its part before a stop, to the history, and saves a checkpoint.

        The history in a checkpoint holds complete epochs only; diverged weights are never saved.
        Callbacks with `after_epoch` are called before.
        """
        self._call("after_epoch", self.step)
        whole = self.step == end
        done = epoch if whole else passes(self.data, self.step)
        self.history.append(logs | {"epoch": done})
        self.saved = False
        if self.checkpoints and np.isfinite(logs["loss"]):
            history = self.history if whole else self.history[:-1]
            self.saved = self.checkpoints.save(self.model, self.step, history, skipped_steps)

    def raise_if_preempted(self) -> None:
        """Raises `Preempted` if a request has stopped the run before its end."""
        if self.preempted and self.step < self.last_step:
            raise Preempted(
                f"stopped after step {self.step:,} of {self.last_step:,}"
                + ("" if self.saved else ", not saved")
            )


def epoch_ends(data: TrainingData, epochs: int) -> list[int]:
    """Returns the last step of each epoch."""
    steps = getattr(data, "steps", None)
    if steps is None:
        return steps_over(data).epoch_ends(epochs)
    return [steps * epoch for epoch in range(1, epochs + 1)]


def steps_over(data: TrainingData) -> order.Steps:
    """Returns which part of the stream of examples each step takes."""
    return order.Steps.of(data.num_examples, data.global_batch_size)


def passes(data: TrainingData, step: int) -> float:
    """Returns the number of passes over the data that a number of steps makes."""
    steps = getattr(data, "steps", None)
    return steps_over(data).epoch(step) if steps is None else step / steps


def distributed(
    strategy: tf.distribute.Strategy, data: TrainingData, first_step: int, last_step: int
) -> Iterable:
    """Returns the batches of some steps, each worker's own part of them."""
    return distribute(strategy, lambda context: data.dataset(context, first_step, last_step))

"""What a training loop observes beside its loss, and tells its callbacks.

A Keras callback given to `Trainer.fit` may have three further methods:

- `on_observation(observation)` is called after each call of the loop, before `on_train_batch_end`;
- `next_boundary(step)` returns a step after `step` at which a call of the loop must end, or None;
- `after_epoch(step)` is called after the `on_epoch_end` of all callbacks and before a checkpoint of
  this step is saved.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_lars.errors import require


@dataclasses.dataclass(frozen=True)
class Observe:
    """What a `Trainer` observes in addition to what costs nothing.

    Attributes:
      layers_every: Interval in steps at which weights and updates of each variable are sampled; 0
        for never. A sample keeps a second copy of the trainable weights for the length of a step.
      noise_scale: Whether to compute the norms of the gradients of the parts of a batch, from which
        the gradient noise scale is estimated.

    Raises:
      InputError: The interval is negative.
    """

    layers_every: int = 0
    noise_scale: bool = False

    def __post_init__(self):
        require(self.layers_every >= 0, "`layers_every`", "0 or above", self.layers_every)


class WorkerTimes(NamedTuple):
    """Where a worker has spent the time of a step, in seconds, as a mean over a call of the loop.

    Attributes:
      input: Waiting for the batch after the former update.
      compute: Forward and backward pass.
      reduction: The all-reduce, and in it waiting for slower workers.
      update: The optimizer.
    """

    input: float
    compute: float
    reduction: float
    update: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self)

    @property
    def alone(self) -> float:
        """Seconds of a step in which this worker did not wait for others."""
        return self.total - self.reduction

    @property
    def input_share(self) -> float:
        """Share of the time in which this worker waited for its input."""
        return self.input / self.total if self.total else 0.0


class PartNorms(NamedTuple):
    """Squared norms of gradients, from which the noise scale is estimated.

    Both are exponentially decaying sums over the steps of a call, with weight (1 - d) d^j for the
    step that lies j steps before the last: see `tf_lars.tracking.noise_scale`.

    Attributes:
      steps: Number of steps in the sums.
      parts: N, the number of parts of the global batch: replicas times micro-batches.
      whole: Sum of |g|^2, with g the gradient of the global batch.
      mean_of_parts: Sum of the mean of |g_i|^2 over the parts.
    """

    steps: int
    parts: int
    whole: float
    mean_of_parts: float


@dataclasses.dataclass(frozen=True)
class LayerSample:
    """Norms of each trainable variable in one step, float `[variables]`.

    Attributes:
      paths: Paths of the variables.
      weight_norm: |w| before the step.
      update_norm: |w_after - w_before|.
      gradient_norm: |g|, summed over the replicas, before any clipping.
      trust_ratio: r of LARS, 1 for variables that it does not adapt; None with other optimizers.
    """

    paths: Sequence[str]
    weight_norm: np.ndarray
    update_norm: np.ndarray
    gradient_norm: np.ndarray
    trust_ratio: np.ndarray | None

    @property
    def update_ratio(self) -> np.ndarray:
        """|w_after - w_before| / |w_before|; 0 for variables that are zero."""
        return np.divide(
            self.update_norm,
            self.weight_norm,
            out=np.zeros_like(self.update_norm),
            where=self.weight_norm > 0,
        )

    def tables(self) -> dict[str, dict[str, float]]:
        """Returns the values of each variable by path, by tag."""
        columns: Mapping[str, Any] = {
            "trust_ratio": self.trust_ratio,
            "weight_norm": self.weight_norm,
            "update_ratio": self.update_ratio,
            "gradient_norm": self.gradient_norm,
        }
        return {
            tag: dict(zip(self.paths, map(float, values), strict=True))
            for tag, values in columns.items()
            if values is not None
        }


@dataclasses.dataclass(frozen=True)
class Observation:
    """One call of the training loop.

    Attributes:
      step: Number of steps taken since training began.
      steps: Number of steps in this call.
      seconds: Seconds of the call, as a mean over the workers.
      traced: Whether the call has traced the loop, which takes most of its time.
      global_batch_size: Number of examples per step.
      gradient_norms: Norm of each trainable variable's gradient in the last step, before any
        clipping, float `[variables]`.
      workers: Where the time of a step went on each worker, in their order; empty where it is
        unknown, as on TPUs.
      parts: Norms for the noise scale; None if they are not observed or there is one part only.
      layers: Sample of the layers; None except at its interval.
    """

    step: int
    steps: int
    seconds: float
    traced: bool
    global_batch_size: int
    gradient_norms: np.ndarray
    workers: Sequence[WorkerTimes]
    parts: PartNorms | None = None
    layers: LayerSample | None = None

    @property
    def gradient_norm(self) -> float:
        """Norm of the whole gradient in the last step, before any clipping."""
        return float(np.linalg.norm(self.gradient_norms.astype(np.float64)))

    @property
    def images_per_second(self) -> float:
        """Examples per second over all replicas."""
        return self.steps * self.global_batch_size / self.seconds

    @property
    def input_wait(self) -> float | None:
        """Largest share of its time that a worker has waited for its input; None if unknown."""
        return max((worker.input_share for worker in self.workers), default=None)


def next_multiple(step: int, interval: int) -> int:
    """Returns the first multiple of an interval after a step."""
    return (step // interval + 1) * interval


def is_due(step: int, interval: int | None) -> bool:
    """Returns whether a step is a multiple of an interval; with None, each call's last step is."""
    return interval is None or step % interval == 0

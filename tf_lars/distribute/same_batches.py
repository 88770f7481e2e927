"""A `keras.utils.PyDataset` whose batches come in one order on all workers."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data import order
from tf_lars.data.fit_inputs.array_inputs import checksum
from tf_lars.distribute.meeting import check_equal
from tf_lars.errors import InputError


class SameBatches(keras.utils.PyDataset):
    """The batches of another dataset, in an order that all workers draw alike.

    Each worker reads every batch and TensorFlow keeps its part, so the batches must be the same on
    all workers. Whether they are is seen from the targets of the first and the last batch of each
    epoch: inputs may be augmented at random.

    Args:
      source: Dataset of the user.
      strategy: Strategy of the workers.
      seed: Seed of the order, the same on all workers.
      shuffle: Whether the batches of each epoch come in another order.
    """

    def __init__(
        self,
        source: keras.utils.PyDataset,
        strategy: tf.distribute.Strategy,
        *,
        seed: int,
        shuffle: bool,
    ):
        super().__init__(
            workers=source.workers,
            use_multiprocessing=source.use_multiprocessing,
            max_queue_size=source.max_queue_size,
        )
        self._source = source
        self._strategy = strategy
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0
        self._order = self._drawn()

    @property
    def num_batches(self) -> int | None:
        """Number of batches of an epoch; None if there is no end."""
        return self._source.num_batches

    def __getitem__(self, index: int) -> Any:
        return self._source[index if self._order is None else int(self._order[index])]

    def __getstate__(self) -> dict[str, Any]:
        # For the processes that read the batches; a strategy cannot be sent to them.
        return {**self.__dict__, "_strategy": None}

    def on_epoch_begin(self) -> None:
        """Checks that all workers have the same batches."""
        with _same_random_numbers(self._seed, self._epoch):
            self._source.on_epoch_begin()
        count = self.num_batches
        ends = [0] if count is None else sorted({0, count - 1})
        batches = [keras.utils.unpack_x_y_sample_weight(self._source[i]) for i in ends]
        targets = tf.nest.flatten([x if y is None else y for x, y, _ in batches])
        check_equal(
            self._strategy,
            {"number of batches": count or 0, "checksum of targets": checksum(targets)},
            "A PyDataset must have the same batches on all workers, of which each takes its part.",
            "Draw random numbers for the order and the targets from a seed, or call "
            "keras.utils.set_random_seed before making it.",
        )
        self._check_sizes(*(len(tf.nest.flatten(x)[0]) for x, _, _ in batches))

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch, before the processes start that read it."""
        self._epoch += 1
        with _same_random_numbers(self._seed, self._epoch):
            self._source.on_epoch_end()
        self._order = self._drawn()

    def _drawn(self) -> np.ndarray | None:
        count = self.num_batches
        if not self._shuffle or count is None:
            return None
        return np.random.default_rng([self._seed, self._epoch]).permutation(count)

    def _check_sizes(self, size: int, last: int | None = None) -> None:
        replicas = self._strategy.num_replicas_in_sync
        order.per_replica_batch_size(size, replicas)
        if last is not None and -(-last // replicas) * (replicas - 1) >= last:
            raise InputError(
                f"Each batch must have an example for each of the {replicas} workers. Received: a "
                f"last batch of {last}. Leave it out."
            )


@contextlib.contextmanager
def _same_random_numbers(seed: int, epoch: int) -> Iterator[None]:
    """Within this context, all workers draw alike from Python's and NumPy's global generators.

    Many datasets shuffle their examples with these between epochs.
    """
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(f"{seed} {epoch}")
    np.random.seed([seed, epoch])  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002

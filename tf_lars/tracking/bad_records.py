"""Counts the bad records of a data set over all workers, each record once."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data.records.example_reader import ExampleReader
from tf_lars.errors import InputError
from tf_lars.tracking.results import gather


class BadRecordCount(keras.callbacks.Callback):
    """Adds `bad_records` to the logs of each epoch.

    Every worker must have this callback, before all others.

    | log | when | meaning |
    |---|---|---|
    | `bad_records` | each epoch | distinct records skipped since the start of this process |

    Args:
      readers: Readers of this process, by split.
      strategy: Strategy of the workers.
      max_bad_records: Maximum number of bad records per split, over all workers.
    """

    def __init__(
        self,
        readers: Mapping[str, ExampleReader],
        strategy: tf.distribute.Strategy,
        max_bad_records: int,
    ):
        super().__init__()
        self._readers = readers
        self._strategy = strategy
        self._max_bad_records = max_bad_records
        self.count = 0

    def on_epoch_end(self, epoch, logs=None):
        """Counts the bad records, and ends the run on all workers if there are too many.

        Raises:
          InputError: A split has more than `max_bad_records`.
        """
        self.count = sum(self._count(split, reader) for split, reader in self._readers.items())
        if logs is not None:
            logs["bad_records"] = self.count

    def _count(self, split: str, reader: ExampleReader) -> int:
        bad = np.array(sorted(reader.bad), np.int32)
        # Every worker gathers as many numbers as the one that has found most.
        most = int(gather(self._strategy, np.array([len(bad)], np.int32)).max())
        if not most:
            return 0
        own = np.full(most, -1, np.int32)
        own[: len(bad)] = bad
        count = len(set(gather(self._strategy, own).ravel().tolist()) - {-1})
        if count > self._max_bad_records:
            raise InputError(
                f"At most {self._max_bad_records} records of a split may be bad. Received: {count} "
                f"in {split} over all workers, listed in their logs. Copy or prepare the files "
                "again, or raise --max_bad_records."
            )
        return count

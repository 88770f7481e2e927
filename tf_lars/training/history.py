"""What `Trainer.fit` returns."""

from collections.abc import Iterator, Mapping

import keras


class TrainingHistory(keras.callbacks.History):
    """Keras's history of a training, and a sequence of one dictionary per epoch.

    Attributes:
      history: Values of each metric, by its name, one per epoch in which it was computed.
      epoch: Numbers of the epochs, from 0.
      entries: One dictionary per epoch; see `Trainer.fit`.
    """

    def __init__(self, entries: list[dict[str, float]]):
        super().__init__()
        self.entries = entries
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        for entry in entries:
            self._append(round(entry["epoch"]) - 1, entry)

    def on_train_begin(self, logs=None):
        """Keeps the epochs before a resumption, which Keras would forget."""

    def on_epoch_end(self, epoch, logs=None):
        """Adds an epoch."""
        self._append(epoch, logs or {})

    def _append(self, epoch: int, logs: Mapping[str, float]) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index):
        return self.entries[index]

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.entries)

"""One of two real workers of which one leaves the other: <folder> <case>, with TF_CONFIG.

Each writes the error with which it ends to <folder>/worker<rank>.npz.
"""

import pathlib
import sys
import time

import keras
import numpy as np

from tests.helpers import keras_fit_models as models
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.distribute import strategy
from tf_lars.errors import InputError, PeerFailure


class _AfterBatch(keras.callbacks.Callback):
    """Does something after the second batch."""

    def __init__(self, action):
        super().__init__()
        self._action = action

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self._action(self.model)


def _stop(network):
    network.stop_training = True


def _wait_for(file):
    """Stays, without taking part, until the other worker has ended."""
    while not file.exists():
        time.sleep(0.1)


def main():
    folder, case = pathlib.Path(sys.argv[1]), sys.argv[2]
    rank = resolve_cluster().rank
    is_absent_case = case == "does not come"
    strategy.HEARTBEAT_SECONDS = 10
    models.Joined.strategy = strategy.create_strategy(wait_seconds=5 if is_absent_case else 300)
    network = models.model()
    action = {"stops": _stop, "leaves": lambda network: sys.exit()}.get(case)
    callbacks = [_AfterBatch(action)] if rank == 1 and action else []
    told = ""
    try:
        if is_absent_case and rank == 1:
            _wait_for(folder / "worker0.npz")
        else:
            models.fit(network, callbacks=callbacks)
    except (InputError, PeerFailure) as error:
        told = f"{type(error).__name__}: {error}"
    finally:
        np.savez(folder / f"worker{rank}.npz", told=told)


if __name__ == "__main__":
    main()

"""A worker that trains undisturbed, then with a slow input, then while it is stopped in pulses.

`python -m tests.helpers.disturbed_worker FOLDER`, started by `two_processes.run`, writes the
warnings of each phase on the chief to `FOLDER/worker<rank>.npz`. Worker 1 is the disturbed one.
"""

import os
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.distribute.replicas import broadcast_from_chief
from tf_lars.distribute.strategy import create_strategy
from tf_lars.tracking.health import Health, Thresholds
from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.scalars import ScalarLogger

BATCH = 256
"""Large enough that computing takes most of a step."""

QUIET_SECONDS, MOST_SECONDS = 16.0, 60.0
"""Length of the undisturbed phase, and of one whose disturbance is not noticed."""
WINDOW = 8.0
"""Seconds over which the times of steps are averaged."""

_PULSES = """
import os, select, signal, sys, time
while not select.select([sys.stdin], [], [], 0.1)[0]:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(int(sys.argv[1]), signal.SIGCONT)
"""
"""Ends between two pulses, once its input is closed."""


class Late(ArrayTrainingInput):
    """Data whose batches are late on one worker."""

    def dataset(self, context, first_step, last_step):
        def wait(x, y):
            late = tf.numpy_function(lambda v: time.sleep(0.1) or v, [y], y.dtype)
            return x, tf.ensure_shape(late, y.shape)

        batches = super().dataset(context, first_step, last_step)
        return batches.map(wait) if context.input_pipeline_id == 1 else batches


class Phase(keras.callbacks.Callback):
    """Ends training once the chief warns, or after a while, and stops this worker until then.

    Both begin after the first call, which traces the loop.
    """

    def __init__(self, strategy, seconds, stopped):
        super().__init__()
        self.found = {}
        self._strategy = strategy
        self._seconds = seconds
        self._stopped = stopped
        self._end = None
        self._pulses = None

    def on_train_batch_end(self, batch, logs=None):
        if self._end is None:
            self._end = time.monotonic() + self._seconds
            if self._stopped:
                self._pulses = subprocess.Popen(
                    [sys.executable, "-c", _PULSES, str(os.getpid())], stdin=subprocess.PIPE
                )

    def on_epoch_end(self, epoch, logs=None):
        over = bool(self.found) or time.monotonic() > self._end
        if broadcast_from_chief(self._strategy, int(over)):
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self._pulses:
            self._pulses.communicate()


def warnings(strategy, cluster, folder, data, *, seconds, stopped):
    """Trains for a while; returns the warnings by kind."""
    trainer = training_cases.trainer(strategy, training_cases.small_resnet, steps_per_loop=5)
    phase, health = Phase(strategy, seconds, stopped and cluster.rank == 1), None
    callbacks = [phase]
    log = MetricLog(os.path.join(folder, "tensorboard"), os.path.join(folder, "metrics.jsonl"))
    if cluster.is_chief:
        health = Health(
            log,
            total_steps=10**9,
            worker_names=cluster.workers,
            thresholds=Thresholds(seconds=WINDOW),
        )
        phase.found = health.found
        callbacks += [
            ScalarLogger(log, lambda: trainer.step, epoch_of=lambda step: step / 5),
            health,
        ]
    trainer.fit(data, epochs=100_000, callbacks=callbacks, verbose=0)
    log.close()
    return health.found if health else {}


def main():
    """Runs all phases."""
    folder = sys.argv[1]
    cluster = resolve_cluster()
    strategy = create_strategy(cluster)
    examples = training_cases.images(1280)
    found = {}
    for phase, data in (
        ("undisturbed", ArrayTrainingInput),
        ("late", Late),
        ("stopped", ArrayTrainingInput),
    ):
        seen = warnings(
            strategy,
            cluster,
            os.path.join(folder, phase),
            data(*examples, BATCH),
            seconds=QUIET_SECONDS if phase == "undisturbed" else MOST_SECONDS,
            stopped=phase == "stopped",
        )
        found |= {f"{phase} {kind}": message for kind, message in seen.items()}
    found["workers"] = np.array(cluster.workers)
    np.savez(os.path.join(folder, f"worker{cluster.rank}.npz"), **found)


if __name__ == "__main__":
    main()

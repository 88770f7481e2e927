"""Start-up cost of 2, 4 and 8 workers on one machine, compared with TensorFlow alone.

python -m benchmarks.start_up --data_dir=data/digits

Both contenders start the same number of processes and end after the first step of a small ResNet:

- launch.local: a complete job with one training step. It connects its workers, reads JPEGs,
  evaluates, writes a checkpoint and TensorBoard events, and draws its report.
- bare: processes that import TensorFlow, join MultiWorkerMirroredStrategy, build the same network
  with Keras's SGD, trace, and take one step on random numbers.

CPU seconds are summed over all processes.
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

from benchmarks import tables
from tf_lars.cluster import supervisor
from tf_lars.cluster.spec import local_cluster

RESULTS = pathlib.Path(__file__).parent / "results" / "start_up.csv"
MODEL, BATCH, SIDE = "small_resnet8", 32, 8


def main():
    """Runs both contenders in turns; prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="Folder of the prepared digits.")
    parser.add_argument("--workers", default="2,4,8")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--bare_worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_worker:
        bare_worker()
        return
    print(f"{tables.machine()}, TensorFlow {metadata.version('tensorflow')}")
    rows = []
    for count in map(int, arguments.workers.split(",")):
        turns = [
            (measured(launched(count, arguments.data_dir)), measured(bare(count)))
            for _ in range(arguments.turns)
        ]
        ours, theirs = (
            [statistics.median(turn[side][i] for turn in turns) for i in range(2)]
            for side in range(2)
        )
        rows.append(
            {
                "workers": count,
                "cpu_seconds": round(ours[0], 1),
                "bare_cpu_seconds": round(theirs[0], 1),
                "cpu_ratio": round(ours[0] / theirs[0], 2),
                "seconds": round(ours[1], 1),
                "bare_seconds": round(theirs[1], 1),
            }
        )
    tables.show(rows)
    tables.write(rows, arguments.output)


def measured(run):
    """Returns the CPU seconds of all processes started by a call, and its wall seconds."""
    before, start = _cpu_of_children(), time.perf_counter()
    run()
    return _cpu_of_children() - before, time.perf_counter() - start


def _cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def launched(count, data_dir):
    """Returns a function that trains for one step with `launch.local`."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(sys.executable, "-m", "launch.local"),
                "--flagfile=launch/recipes/digits.flags",
                f"--data_dir={data_dir}",
                f"--model_dir={folder}",
                f"--model={MODEL}",
                f"--num_workers={count}",
                "--global_batch_size=1424",  # one step is an epoch, except for a few images
                "--epochs=1",
                "--warmup_epochs=0",
            ]
            subprocess.run(command, check=True, capture_output=True, env=_environment())

    return run


def bare(count):
    """Returns a function that runs `count` bare workers."""

    def run():
        ports = supervisor.free_ports(count)
        command = [sys.executable, "-m", "benchmarks.start_up", "--bare_worker"]
        workers = [
            subprocess.Popen(
                command,
                env=_environment() | {"TF_CONFIG": local_cluster(ports, rank).tf_config()},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(count)
        ]
        codes = [worker.wait(600) for worker in workers]
        if any(codes):
            raise RuntimeError(f"A bare worker failed. Exit codes: {codes}.")

    return run


def bare_worker():
    """Joins TensorFlow's strategy and takes one step."""
    import keras
    import tensorflow as tf

    import models

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = models.create(MODEL, num_classes=10, image_size=SIDE)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    images, labels = tf.random.uniform([BATCH, SIDE, SIDE, 3]), tf.zeros([BATCH], tf.int32)

    def step():
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    tf.function(lambda: strategy.run(step))()


def _environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


if __name__ == "__main__":
    main()

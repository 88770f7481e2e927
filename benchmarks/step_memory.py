"""Memory use of a training step, relative to the parameters of the network.

    python -m benchmarks.step_memory

A perceptron with a batch of 8 has almost no activations, so that weights, momentum and gradients
dominate. `tf_lars.Trainer`, with one worker and with two, with and without micro-batches, Keras's
`fit` and a bare `tf.function` each train it in a separate process. "before" is the resident memory
once the variables exist, minus that of the bare program; "peak" is the maximum during five steps.
Both are multiples of the size of the trainable weights in float32. Weights and momentum take 2,
gradients 1. Writes `step_memory.csv`.
"""

import json
import os
import pathlib
import re
import statistics
import sys
import tempfile

from absl import app, flags

from benchmarks import tables
from tf_lars.cluster import supervisor
from tf_lars.cluster.spec import local_cluster

FLAGS = flags.FLAGS

BATCH, WIDTH, DEPTH, STEPS = 8, 4096, 4, 5

CASES = {
    "tf_lars.Trainer, LARS": ("trainer", 1, None),
    "tf_lars.Trainer, LARS, micro-batches": ("trainer", 1, 4),
    "tf_lars.Trainer, LARS, 2 workers": ("trainer", 2, None),
    "Keras fit, LARS": ("fit", 1, None),
    "bare tf.function, Keras SGD": ("bare", 1, None),
}
"""Loop, number of workers and micro-batch size, by name."""


def resident(field: str) -> int:
    """Returns the resident memory of this process in bytes: VmRSS (current) or VmHWM (peak)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def train(loop: str, micro_batch_size: int | None) -> dict[str, float]:
    """Trains in this process; returns memory before and peak, as multiples of the weights."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tf_lars import LARS, Trainer, create_strategy
    from tf_lars.data.arrays import ArrayTrainingInput

    supervisor.start_heartbeat()
    strategy = create_strategy()
    program = resident("VmRSS")
    with strategy.scope():
        layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(DEPTH)]
        model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9) if loop == "bare" else LARS(0.01)
        model.compile(optimizer, "mse", jit_compile=False)
        optimizer.build(model.trainable_variables)
    for variable in optimizer.variables:  # zeros take no memory until they are written
        variable.assign(variable + 0)
    copy = 4 * model.count_params()
    before = resident("VmRSS") - program
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM

    replicas = strategy.num_replicas_in_sync
    x = np.ones((STEPS * BATCH * replicas, WIDTH), np.float32)
    y = x[:, :1]
    if loop == "trainer":
        trainer = Trainer(model, strategy, micro_batch_size=micro_batch_size)
        trainer.fit(ArrayTrainingInput(x, y, BATCH * replicas), epochs=1)
    elif loop == "fit":
        model.fit(x, y, batch_size=BATCH, verbose=0)
    else:

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        for _ in range(STEPS):
            step(x[:BATCH], y[:BATCH])
    return {"before": before / copy, "peak": (resident("VmHWM") - program) / copy}


def run(loop: str, workers: int, micro_batch_size: int | None) -> dict[str, float]:
    """Trains in worker processes; returns the maxima of their measurements."""
    ports = supervisor.free_ports(workers)
    with tempfile.TemporaryDirectory() as folder:
        results = [os.path.join(folder, f"{rank}.json") for rank in range(workers)]
        environment = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        clusters = [
            local_cluster(ports, rank).tf_config() if workers > 1 else "" for rank in range(workers)
        ]
        part = [] if micro_batch_size is None else [f"--micro_batch_size={micro_batch_size}"]
        command = [sys.executable, "-m", "benchmarks.step_memory", f"--loop={loop}", *part]
        outcome = supervisor.run(
            [[*command, f"--result={result}"] for result in results],
            [{**environment, "TF_CONFIG": tf_config} for tf_config in clusters],
            folder,
        )
        if outcome.exit_code:
            raise RuntimeError(f"{outcome}: {outcome.error}")
        found = [json.loads(pathlib.Path(result).read_text()) for result in results]
    return {name: max(one[name] for one in found) for name in found[0]}


def main(argv):
    """Runs the benchmark, or with --loop trains as one of its workers."""
    del argv
    if FLAGS.loop:
        pathlib.Path(FLAGS.result).write_text(json.dumps(train(FLAGS.loop, FLAGS.micro_batch_size)))
        return
    print(tables.machine())
    rows = []
    for name, case in CASES.items():
        found = [run(*case) for _ in range(FLAGS.rounds)]
        medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
        rows.append(
            {
                "loop": name,
                "before": round(medians["before"], 2),
                "peak": round(medians["peak"], 2),
                "step": round(medians["peak"] - medians["before"], 2),
            }
        )
    tables.show(rows)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    tables.write(rows, output_dir / "step_memory.csv")


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "Runs per row, which shows their median.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")
    flags.DEFINE_string("loop", None, "For workers: loop to run.")
    flags.DEFINE_integer("micro_batch_size", None, "For workers: size of micro-batches.")
    flags.DEFINE_string("result", None, "For workers: file for the measurements.")
    app.run(main)

"""Cost of tracking: CPU time per step with and without it, on two workers that train together.

    python -m benchmarks.tracking_cost

Four trainers of the same small ResNet take turns in the same two processes: without tracking; with
the gradient noise scale; with a sample of the layers every 100 steps; and with all that a launcher
records by default in a run of 10,000 steps, except for what it draws at its end. A turn is an epoch
of 100 steps, timed from its first step to its end on both workers, with the threads that write.
Writes `tracking_cost.csv` and a chart.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

from benchmarks import tables

FLAGS = flags.FLAGS

STEPS, TOTAL_STEPS, WARM_UP = 100, 10_000, 2
BATCH, IMAGE_SIZE, MODEL = 64, 32, "small_resnet14"
OFF = "off"
NOISE = "noise scale"
LAYERS = "layers every 100 steps"
ALL = "all, at the defaults"
CONTENDERS = (OFF, NOISE, LAYERS, ALL)


def train(folder, rounds):
    """Trains as one of two workers, and writes the CPU seconds of each turn."""
    import keras
    import numpy as np

    import models
    from tf_lars import LARS, Trainer, create_strategy
    from tf_lars.cluster.discovery import resolve_cluster
    from tf_lars.data.arrays import ArrayTrainingInput
    from tf_lars.tracking.observation import Observe

    cluster = resolve_cluster()
    strategy = create_strategy(cluster)
    random = np.random.default_rng(0)
    examples = STEPS * BATCH
    x = random.integers(0, 256, (examples, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    data = ArrayTrainingInput(x, random.integers(0, 10, examples), BATCH)

    def trainer(observe):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = models.create(MODEL, num_classes=10, image_size=IMAGE_SIZE)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(LARS(0.1, weight_decay=1e-4), loss, metrics=["accuracy"])
        return Trainer(model, strategy, observe=observe)

    every = TOTAL_STEPS // 100
    trainers = {
        OFF: trainer(None),
        NOISE: trainer(Observe(noise_scale=True)),
        LAYERS: trainer(Observe(layers_every=every)),
        ALL: trainer(Observe(noise_scale=True, layers_every=every)),
    }
    callbacks = {
        name: recorders(name, one, os.path.join(folder, name)) if cluster.is_chief else []
        for name, one in trainers.items()
    }
    seconds = {name: [] for name in CONTENDERS}
    for turn in range(WARM_UP + rounds):
        for name in CONTENDERS[turn % len(CONTENDERS) :] + CONTENDERS[: turn % len(CONTENDERS)]:
            begin, end = stopwatch()
            trainers[name].fit(
                data,
                initial_epoch=turn,
                epochs=turn + 1,
                callbacks=[begin, *callbacks[name], end],
                verbose=0,
            )
            seconds[name].append(end.seconds)
    result = {name: times[WARM_UP:] for name, times in seconds.items()}
    pathlib.Path(folder, f"{cluster.rank}.json").write_text(json.dumps(result))


def epoch_of(step):
    """Returns the number of epochs that some steps make."""
    return step / STEPS


def recorders(name, trainer, folder):
    """Returns the callbacks of a contender on the chief."""
    from tf_lars.tracking import device_monitor, health, layers, noise, norms, throughput_log
    from tf_lars.tracking.metric_log import MetricLog
    from tf_lars.tracking.scalars import ScalarLogger

    if name == OFF:
        return []
    log = MetricLog(os.path.join(folder, "tensorboard"), os.path.join(folder, "metrics.jsonl"))
    scalars = ScalarLogger(log, lambda: trainer.step, epoch_of=epoch_of)
    of_layers = [layers.LayerLogger(log, epoch_of=epoch_of), norms.Norms(log)]
    if name == NOISE:
        return [scalars, noise.NoiseMeter(log)]
    if name == LAYERS:
        return [scalars, *of_layers]
    return [
        scalars,
        throughput_log.ThroughputLogger(log, devices=2),
        *of_layers,
        noise.NoiseMeter(log),
        device_monitor.DeviceMonitor(log),
        health.Health(log, total_steps=TOTAL_STEPS, layers_every=TOTAL_STEPS // 100),
    ]


def stopwatch():
    """Returns callbacks to come first and last, the latter with the CPU `seconds` between them."""
    import time

    import keras

    class End(keras.callbacks.Callback):
        start = seconds = 0.0

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.process_time() - self.start

    end = End()

    def begin(epoch, logs=None):
        end.start = time.process_time()

    return keras.callbacks.LambdaCallback(on_epoch_begin=begin), end


def measure(rounds):
    """Returns {name: CPU milliseconds per step of both workers, one for each turn}."""
    from tf_lars.cluster import supervisor

    workers = [f"127.0.0.1:{port}" for port in supervisor.free_ports(2)]
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for index in range(2):
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps(task),
                "CUDA_VISIBLE_DEVICES": "-1",
            }
            command = "import sys; from benchmarks import tracking_cost as t; "
            command += "t.train(sys.argv[1], int(sys.argv[2]))"
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", command, folder, str(rounds)], env=environment
                )
            )
        for process in processes:
            if process.wait():
                raise RuntimeError(f"A worker has failed with exit code {process.returncode}.")
        of_worker = [json.loads(pathlib.Path(folder, f"{i}.json").read_text()) for i in range(2)]
    return {
        name: [
            1e3 * sum(pair) / STEPS for pair in zip(*(one[name] for one in of_worker), strict=True)
        ]
        for name in CONTENDERS
    }


def table(times):
    """Returns a row for each contender, with the median ratio to the turn without tracking."""
    rows = []
    for name, milliseconds in times.items():
        ratios = [ms / off for ms, off in zip(milliseconds, times[OFF], strict=True)]
        rows.append(
            {
                "tracking": name,
                "cpu_ms_per_step_median": round(statistics.median(milliseconds), 3),
                "cost_percent_median": round(100 * (statistics.median(ratios) - 1), 2),
                "cost_percent_quartiles": " to ".join(
                    f"{100 * (q - 1):.2f}" for q in statistics.quantiles(ratios, n=4)[::2]
                ),
                "turns": len(milliseconds),
            }
        )
    return rows


def draw(times, path, machine):
    """Draws the ratios of all turns, with their medians."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [name for name in CONTENDERS if name != OFF]
    costs = [
        [100 * (ms / off - 1) for ms, off in zip(times[name], times[OFF], strict=True)]
        for name in names
    ]
    axes.boxplot(costs, orientation="horizontal", tick_labels=names, showfliers=False)
    for row, cost in enumerate(costs, start=1):
        axes.plot(cost, [row] * len(cost), ".", color="tab:blue", alpha=0.5)
    axes.axvline(0, color="tab:grey", linewidth=0.8)
    axes.axvline(1, color="tab:red", linewidth=0.8, linestyle=":")
    axes.set_xlabel("CPU time per step over that without tracking, % more (dotted: 1 %)")
    axes.set_title(f"Cost of tracking, {MODEL} on two workers\n{machine}", fontsize=9)
    figure.savefig(path)


def main(_):
    """Runs the benchmark."""
    times = measure(FLAGS.rounds)
    rows = table(times)
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(rows, folder / "tracking_cost.csv")
    draw(times, folder / "tracking_cost.png", tables.machine())


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 12, "Turns of each contender.", lower_bound=2)
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")
    app.run(main)

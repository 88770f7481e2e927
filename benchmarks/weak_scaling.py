"""What a second worker costs: CPU seconds per image of ResNet-50, by one worker and by two.

    python -m benchmarks.weak_scaling

Every worker has one core to itself and a batch of its own, so two workers do twice the work.
Perfect scaling leaves the CPU seconds per image as they were; the efficiency is

    (CPU seconds per image of one worker) / (CPU seconds per image of two workers).

CPU seconds are those of all threads of the workers, the network's included, and depend little on
what else the machine does; wall time depends on it. `tf_lars.Trainer` and torch's
DistributedDataParallel over gloo take turns with one worker and with two. Where torch is in another
environment, `--torch_python` names its Python. Writes `weak_scaling.csv` and a chart.
"""

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

from benchmarks import tables
from tf_lars.distribute import cluster, supervisor

FLAGS = flags.FLAGS

TF_LARS, TORCH = "tf_lars.Trainer", "torch DDP, gloo"


def run(framework, workers, task, python=sys.executable, extra=None):
    """Returns {"cpu": [...], "wall": [...]} of the measured steps, over all workers together.

    Args:
        framework: "tf_lars" or "torch".
        workers: number of processes, each pinned to one core.
        task: settings of `weak_scaling_worker`.
        python: interpreter of the workers.
        extra: environment variables to set.

    Raises:
        RuntimeError: a worker failed; with the end of its log.
    """
    ports = supervisor.free_ports(workers)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        results = [os.path.join(folder, f"{rank}.json") for rank in range(workers)]
        environments = []
        for rank in range(workers):
            one = cluster.local(ports, rank)
            environments.append(
                {
                    "TF_CONFIG": one.tf_config() if workers > 1 else "",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(ports[0]),
                    "RANK": str(rank),
                    "WORLD_SIZE": str(workers),
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    **(extra or {}),
                }
            )
        module = [python, "-m", "benchmarks.weak_scaling_worker", framework, json.dumps(task)]
        outcome = supervisor.run(
            [[*module, result] for result in results],
            environments,
            folder,
            cpus=[[cores[rank]] for rank in range(workers)],
        )
        if outcome.exit_code:
            raise RuntimeError(f"{outcome}: {outcome.error}")
        found = [json.loads(pathlib.Path(result).read_text()) for result in results]
    return {key: [value for one in found for value in one[key]] for key in ("cpu", "wall")}


def measure(contenders, rounds, task):
    """Returns {(name, workers): times}, the contenders in a new order every round.

    Args:
        contenders: {name: (framework, python)}.
        rounds: runs of each, with one worker and with two.
        task: settings of `weak_scaling_worker`.
    """
    turns = [(name, workers) for name in contenders for workers in (1, 2)]
    times = {turn: {"cpu": [], "wall": []} for turn in turns}
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds):
        shuffle(turns)
        for name, workers in turns:
            framework, python = contenders[name]
            result = run(framework, workers, task, python)
            for key, values in result.items():
                times[name, workers][key] += values
            cpu = statistics.median(result["cpu"])
            print(f"round {round_ + 1}, {name}, {workers} worker(s): {cpu:.3f} CPU s per step")
    return times


def table(times, batch_size):
    """Returns the rows: CPU milliseconds per image, and the efficiency of the second worker."""
    rows = []
    for (name, workers), values in sorted(times.items()):
        alone = statistics.median(times[name, 1]["cpu"])
        median = statistics.median(values["cpu"])
        rows.append(
            {
                "contender": name,
                "workers": workers,
                "cpu_ms_per_image_median": round(1e3 * median / batch_size, 2),
                "cpu_ms_per_image_min": round(1e3 * min(values["cpu"]) / batch_size, 2),
                "cpu_efficiency": round(alone / median, 3),
                "images_per_second": round(
                    workers * batch_size / statistics.median(values["wall"]), 1
                ),
                "steps": len(values["cpu"]),
            }
        )
    return rows


def chart(rows, path):
    """Draws CPU milliseconds per image, with the efficiency at the bars of two workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.add_subplot()
    names = [
        f"{row['contender']}, {row['workers']} worker{'s' * (row['workers'] > 1)}" for row in rows
    ]
    bars = axes.barh(
        names,
        [row["cpu_ms_per_image_median"] for row in rows],
        color=["tab:red" if row["contender"] == TF_LARS else "tab:blue" for row in rows],
    )
    labels = [
        f"{row['cpu_ms_per_image_median']:.1f}"
        + (f"  ({row['cpu_efficiency']:.0%})" if row["workers"] > 1 else "")
        for row in rows
    ]
    axes.bar_label(bars, labels, padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per image, median; in brackets the efficiency of two workers")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _has_torch(python):
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def main(argv):
    """Measures, prints and writes."""
    del argv
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("error: two workers need a core each. Received: one core.")
    contenders = {TF_LARS: ("tf_lars", sys.executable)}
    if _has_torch(FLAGS.torch_python):
        contenders[TORCH] = ("torch", FLAGS.torch_python)
    else:
        print(f"left out: torch ({FLAGS.torch_python} cannot import it)")
    print(tables.machine())
    task = {
        "batch": FLAGS.batch_size,
        "image_size": FLAGS.image_size,
        "steps": FLAGS.steps,
        "warm_up": FLAGS.warm_up,
        "threads": 1,
    }
    rows = table(measure(contenders, FLAGS.rounds, task), FLAGS.batch_size)
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(rows, folder / "weak_scaling.csv")
    chart(rows, folder / "weak_scaling.png")


def define_flags():
    """Defines the flags; not at import, for the benchmarks' flags have the same names."""
    flags.DEFINE_integer("rounds", 3, "Runs of each contender.", lower_bound=1)
    flags.DEFINE_integer("steps", 8, "Measured steps of each run.", lower_bound=1)
    flags.DEFINE_integer("warm_up", 3, "Steps before them.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images of each worker's batch.", lower_bound=1)
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_string("torch_python", sys.executable, "A Python that has torch.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")


if __name__ == "__main__":
    define_flags()
    app.run(main)

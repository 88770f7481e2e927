"""Weak scaling on CPUs: CPU seconds per image of ResNet-50 with one worker and with two.

    python -m benchmarks.weak_scaling

Each worker has one core and its own batch, so two workers do twice the work. With perfect scaling,
the CPU seconds per image stay the same; the efficiency is

    (CPU seconds per image of one worker) / (CPU seconds per image of two workers).

The all-reduce of a step moves 102 MB for any batch size, so the efficiency depends on the batch
size. CPU seconds are those of all threads of the workers, including the network's, and hardly
depend on other load on the machine; wall time does. `tf_lars.Trainer` and torch's
DistributedDataParallel over gloo take turns with each batch size, with one worker and with two. If
torch is in another environment, set `--torch_python` to its Python. Writes `weak_scaling.csv` and a
chart.
"""

import itertools
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
from tf_lars.cluster import supervisor
from tf_lars.cluster.spec import local_cluster

FLAGS = flags.FLAGS

TF_LARS, TORCH = "tf_lars.Trainer", "torch DDP, gloo"


def run(framework, workers, task, python=sys.executable, extra=None):
    """Returns {"cpu": [...], "wall": [...]} with the seconds of the measured steps of all workers.

    Args:
        framework: "tf_lars" or "torch".
        workers: Number of processes, each pinned to one core.
        task: Settings for `weak_scaling_worker`.
        python: Python interpreter of the workers.
        extra: Additional environment variables.

    Raises:
        RuntimeError: A worker failed; the message contains the end of its log.
    """
    ports = supervisor.free_ports(workers)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        results = [os.path.join(folder, f"{rank}.json") for rank in range(workers)]
        environments = []
        for rank in range(workers):
            one = local_cluster(ports, rank)
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


def measure(contenders, batch_sizes, rounds, task):
    """Returns {(name, batch size, workers): times}, measured in a new order every round.

    Args:
        contenders: {name: (framework, python)}.
        batch_sizes: Batch sizes per worker.
        rounds: Number of runs of each, with one worker and with two.
        task: Other settings for `weak_scaling_worker`.
    """
    turns = list(itertools.product(contenders, batch_sizes, (1, 2)))
    times = {turn: {"cpu": [], "wall": []} for turn in turns}
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds):
        shuffle(turns)
        for turn in turns:
            name, batch_size, workers = turn
            framework, python = contenders[name]
            result = run(framework, workers, task | {"batch": batch_size}, python)
            for key, values in result.items():
                times[turn][key] += values
            cpu = statistics.median(result["cpu"])
            print(
                f"round {round_ + 1}, {name}, batch {batch_size}, {workers} worker(s): "
                f"{cpu:.3f} CPU s per step",
                flush=True,
            )
    return times


def table(times):
    """Returns the rows of the table: CPU milliseconds per image and efficiency."""
    rows = []
    for (name, batch_size, workers), values in sorted(times.items()):
        alone = statistics.median(times[name, batch_size, 1]["cpu"])
        median = statistics.median(values["cpu"])
        rows.append(
            {
                "contender": name,
                "batch_per_worker": batch_size,
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
    """Draws the efficiency of two workers against the batch size per worker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    two = [row for row in rows if row["workers"] == 2]
    for name in sorted({row["contender"] for row in two}):
        points = [
            (row["batch_per_worker"], row["cpu_efficiency"])
            for row in two
            if row["contender"] == name
        ]
        color = "tab:red" if name == TF_LARS else "tab:blue"
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        for batch, efficiency in points:
            axes.annotate(
                f"{efficiency:.0%}", (batch, efficiency), (0, 6), textcoords="offset points"
            )
    batches = sorted({row["batch_per_worker"] for row in two})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0.5, 1.05)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("batch size per worker")
    axes.set_ylabel("CPU efficiency of two workers")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _has_torch(python):
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("error: Two workers need two cores. Received: one core.")
    contenders = {TF_LARS: ("tf_lars", sys.executable)}
    if _has_torch(FLAGS.torch_python):
        contenders[TORCH] = ("torch", FLAGS.torch_python)
    else:
        print(f"skipped: torch ({FLAGS.torch_python} cannot import it)")
    print(tables.machine())
    task = {
        "image_size": FLAGS.image_size,
        "steps": FLAGS.steps,
        "warm_up": FLAGS.warm_up,
        "threads": 1,
    }
    rows = table(measure(contenders, FLAGS.batch_size, FLAGS.rounds, task))
    tables.show(rows)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(rows, folder / "weak_scaling.csv")
    chart(rows, folder / "weak_scaling.png")


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 2, "Runs per contender.", lower_bound=1)
    flags.DEFINE_integer("steps", 8, "Measured steps per run.", lower_bound=1)
    flags.DEFINE_integer("warm_up", 2, "Steps before the measured ones.", lower_bound=1)
    flags.DEFINE_multi_integer(
        "batch_size", [32, 128], "Batch size per worker; may be repeated.", lower_bound=1
    )
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_string("torch_python", sys.executable, "Python interpreter with torch.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table and the chart.")


if __name__ == "__main__":
    define_flags()
    app.run(main)

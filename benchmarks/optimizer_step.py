"""CPU and wall time of one optimizer step of LARS and other optimizers, compared in one run.

    python -m benchmarks.optimizer_step

Contenders take turns: one step each, in a new order every round, so that other load on the machine
affects all equally. Results are compared by CPU time, which is that of all threads of this process;
wall time depends on other load. Libraries that are not installed are skipped with a message;
`make bench-optimizer` installs all of them. Writes `optimizer_step.csv`, `optimizer_scaling.csv`
and a chart of each.

The bytes bound is the time for memory traffic alone: SGD with momentum reads weights, velocity and
gradient and writes weights and velocity (5 streams of the model's size); LARS first reads weights
and gradient once, for their norms (7 streams). A memory copy has 2 streams.
"""

import os
import pathlib
import platform
import random
import statistics
import time

from absl import app, flags

from benchmarks import tables

FLAGS = flags.FLAGS

LARS_STREAMS, SGD_STREAMS, COPY_STREAMS = 7, 5, 2
BOUND_LARS, BOUND_SGD = "bytes bound, LARS", "bytes bound, SGD"
# Long enough for the thread pools of the previous contender to stop spinning and sleep.
PAUSE_SECONDS = 0.02


def measure(steps, rounds):
    """Returns {name: (CPU milliseconds, wall milliseconds)}, with one value per round in each.

    Args:
        steps: {name: function that takes one step}.
        rounds: Number of measured rounds, after three warm-up rounds.
    """
    times = {name: ([], []) for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for round_ in range(-3, rounds):
        shuffle(order)
        for name in order:
            time.sleep(PAUSE_SECONDS)
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if round_ >= 0:
                times[name][0].append(1e3 * cpu)
                times[name][1].append(1e3 * wall)
    return times


def summary(name, cpu, wall):
    """Returns a row of a table."""
    return {
        "optimizer": name,
        "cpu_ms_median": round(statistics.median(cpu), 2),
        "cpu_ms_min": round(min(cpu), 2),
        "wall_ms_median": round(statistics.median(wall), 2),
        "wall_ms_min": round(min(wall), 2),
    }


def compare(peers, rounds, all_forms):
    """Returns the table of all contenders on ResNet-50's variables."""
    task = peers.resnet50()
    ours = peers.OURS if all_forms else {peers.LARS_DEFAULT: peers.OURS[peers.LARS_DEFAULT]}
    steps = {}
    for name, make in {**ours, **peers.PEERS}.items():
        try:
            steps[name] = make(task)
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    print(f"ResNet-50: {len(task.weights)} variables, {task.parameters / 1e6:.2f} M parameters")
    rows = [summary(n, *t) for n, t in measure(steps, rounds).items()]
    copy = next(row for row in rows if row["optimizer"] == peers.COPY)
    for name, streams in ((BOUND_LARS, LARS_STREAMS), (BOUND_SGD, SGD_STREAMS)):
        scaled = {k: round(v * streams / COPY_STREAMS, 2) for k, v in list(copy.items())[1:]}
        rows.append({"optimizer": name, **scaled})
    base = {name: _cpu(rows, name) for name in (peers.SGD, peers.TF_MODELS)}
    for row in rows:
        for column, name in (("to_sgd", peers.SGD), ("to_tf_models", peers.TF_MODELS)):
            ratio = row["cpu_ms_median"] / base[name] if base[name] else None
            row[f"cpu_{column}"] = round(ratio, 3) if ratio else ""
        row["rounds"] = rounds
    return sorted(rows, key=lambda row: row["cpu_ms_median"])


def _cpu(rows, name):
    return next((row["cpu_ms_median"] for row in rows if row["optimizer"] == name), None)


def scale(peers, rounds):
    """Returns the table of LARS and SGD for various numbers of parameters and of variables."""
    contenders = {
        peers.LARS_DEFAULT: peers.OURS[peers.LARS_DEFAULT],
        peers.SGD: peers.PEERS[peers.SGD],
    }
    tasks = [("parameters", 20, 10**6 * m) for m in (1, 3, 10, 30, 100)]
    tasks += [("variables", n, 10**6) for n in (10, 30, 100, 300, 1000)]
    rows = []
    for series, variables, parameters in tasks:
        width = round((parameters / variables) ** 0.5)
        task = peers.problem([(width, width)] * variables)
        steps = {name: make(task) for name, make in contenders.items()}
        for name, times in measure(steps, rounds).items():
            row = {"series": series, "variables": variables, "parameters": task.parameters}
            rows.append({**row, **summary(name, *times)})
    return rows


def overhead(rows, name):
    """Returns the CPU microseconds per additional variable: the slope of a fitted line."""
    points = [r for r in rows if r["series"] == "variables" and r["optimizer"] == name]
    line = statistics.linear_regression(
        [r["variables"] for r in points], [1e3 * r["cpu_ms_median"] for r in points]
    )
    return line.slope


def chart(rows, path):
    """Draws a bar chart of the contenders' CPU times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    names = [row["optimizer"] for row in rows]
    bars = axes.barh(
        names,
        [row["cpu_ms_median"] for row in rows],
        color=["tab:red" if name.startswith("tf_lars") else "tab:blue" for name in names],
    )
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per step, median, ResNet-50's 214 variables")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def scaling_chart(rows, path):
    """Draws CPU time against numbers of parameters and of variables."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, series in zip(figure.subplots(1, 2), ("parameters", "variables"), strict=True):
        for name in dict.fromkeys(row["optimizer"] for row in rows):
            chosen = [r for r in rows if r["series"] == series and r["optimizer"] == name]
            x, y = [r[series] for r in chosen], [r["cpu_ms_median"] for r in chosen]
            axes.loglog(x, y, marker="o", label=name)
        axes.set_xlabel(series)
        axes.set_ylabel("CPU ms per step, median")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    from benchmarks import optimizer_peers as peers

    print(tables.machine())
    print(f"Python {platform.python_version()}, {peers.versions()}, {FLAGS.threads} threads")
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = compare(peers, FLAGS.rounds, FLAGS.all_forms)
    tables.show(rows)
    tables.write(rows, folder / "optimizer_step.csv")
    chart(rows, folder / "optimizer_step.png")
    if FLAGS.scaling:
        rows = scale(peers, FLAGS.rounds)
        tables.show(rows)
        for name in dict.fromkeys(row["optimizer"] for row in rows):
            print(f"{name}: {overhead(rows, name):.1f} CPU microseconds per additional variable")
        tables.write(rows, folder / "optimizer_scaling.csv")
        scaling_chart(rows, folder / "optimizer_scaling.png")


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 36, "Interleaved rounds over the contenders.", lower_bound=1)
    flags.DEFINE_boolean(
        "all_forms", False, "Measure every form of tf_lars.LARS, not just the default."
    )
    flags.DEFINE_boolean(
        "scaling", True, "Measure 1 M to 100 M parameters and 10 to 1,000 variables."
    )
    flags.DEFINE_integer("threads", 2, "TensorFlow's intra-op and inter-op threads.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the tables and charts.")


if __name__ == "__main__":
    define_flags()
    app.run(main)

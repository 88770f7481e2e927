"""Cost of `--deterministic` on a CPU: training of ResNet-50 with and without the flag.

    python -m benchmarks.deterministic

The flag disables oneDNN and restricts TensorFlow to deterministic kernels for the whole process.
Each contender therefore runs in a separate process, and they take turns, with LARS on one batch of
noise in memory. Writes `deterministic.csv`.
"""

import contextlib
import pathlib
import platform
import statistics
from importlib import metadata
from typing import NamedTuple

from absl import app, flags

from benchmarks import interleaved, tables

FLAGS = flags.FLAGS

CONTENDERS = {"default": False, "--deterministic": True}


class Task(NamedTuple):
    """Settings of a process."""

    deterministic: bool
    batch_size: int
    image_size: int
    cores: int


def train(task):
    """Trains, yielding the number of images after each step."""
    if task.deterministic:
        from launch.run import determinism

        determinism.enable()
    import keras
    import numpy as np

    import models
    from tf_lars import LARS

    model = models.create("resnet50", num_classes=1000, image_size=task.image_size)
    model.compile(
        LARS(1.0, weight_decay=5e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    random = np.random.default_rng(0)
    shape = (task.batch_size, task.image_size, task.image_size, 3)
    x = random.integers(0, 256, shape).astype(np.uint8)
    y = random.integers(0, 1000, task.batch_size)
    while True:
        model.train_on_batch(x, y)
        yield task.batch_size


def measure(tasks, steps, rounds):
    """Returns {name: turns}, with `steps` steps in each turn.

    Args:
        tasks: {name: Task}.
        steps: Number of steps per turn.
        rounds: Number of turns per contender.
    """
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, task in tasks.items():
            processes[name] = interleaved.Process(train, task)
            stack.callback(processes[name].close)
            processes[name].wait_until_ready()
        return interleaved.measure(processes, steps, rounds, name="ResNet-50")


def table(taken):
    """Returns the rows of the table from {name: turns}."""
    cpu = {name: [1e3 * t.cpu / t.images for t in values] for name, values in taken.items()}
    wall = {name: [t.images / t.wall for t in values] for name, values in taken.items()}
    default = statistics.median(cpu["default"])
    return [
        {
            "contender": name,
            "cpu_ms_per_image_median": round(statistics.median(values), 2),
            "cpu_ms_per_image_min": round(min(values), 2),
            "cpu_to_default": round(statistics.median(values) / default, 2),
            "images_per_second": round(statistics.median(wall[name]), 1),
            "turns": len(values),
        }
        for name, values in cpu.items()
    ]


def main(argv):
    """Runs the benchmark; prints and writes its results."""
    del argv
    print(tables.machine())
    print(
        f"Python {platform.python_version()}, TensorFlow {metadata.version('tensorflow')}, "
        f"{FLAGS.cores} cores, batch {FLAGS.batch_size}, {FLAGS.image_size} px"
    )
    tasks = {
        name: Task(deterministic, FLAGS.batch_size, FLAGS.image_size, FLAGS.cores)
        for name, deterministic in CONTENDERS.items()
    }
    rows = table(measure(tasks, FLAGS.steps, FLAGS.rounds))
    tables.show(rows)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    tables.write(rows, output_dir / "deterministic.csv")


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 5, "Turns per contender.", lower_bound=1)
    flags.DEFINE_integer("steps", 3, "Steps per turn.", lower_bound=1)
    flags.DEFINE_integer("cores", 2, "Cores per contender.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=32)
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")


if __name__ == "__main__":
    from benchmarks import deterministic  # the processes import `train` from there

    deterministic.define_flags()
    app.run(deterministic.main)

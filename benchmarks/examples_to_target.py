"""Examples to a target loss at other batches: predicted from one run, beside independent runs.

    python -m benchmarks.examples_to_target --problem=digits --data_dir=data/digits

A reference run at one batch keeps the checkpoints of its epochs; `launch.critical_batch` measures
B_crit at some of them. With E0, the examples after which the reference run reaches the target,
`tf_lars.planner.examples_needed` predicts E(B) at other batches. Independent runs at these batches,
with other seeds, then reach the same target. The learning rate follows the batch by the optimizer's
rule (the square root for LARS), does not decay, and is not tuned at each batch.

The loss is the training loss, averaged over an epoch and interpolated between the epochs' middles.
Runs that exist are not repeated. Writes `examples_to_target_PROBLEM.csv`.
"""

import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

from absl import app, flags

from benchmarks import tables
from launch.run.layout import METRICS
from tf_lars import scaling
from tf_lars.planner import critical_batch_file
from tf_lars.planner.examples_needed import ExamplesNeeded, phases_of
from tf_lars.tracking import metric_log

FLAGS = flags.FLAGS

PROBLEMS = {
    "digits": {
        "flags": [
            "--model=small_resnet8",
            "--image_size=8",
            "--augmentation=none",
            "--crop_fraction=1",
            "--weight_decay=5e-4",
            "--micro_batch_size=32",
            "--warmup_epochs=1",
        ],
        "batch": 128,
        "learning_rate": 5.0,
        "epochs": 8,
        "target": 0.3,
        "batches": [32, 64, 256, 512],
        "seeds": 3,
        "branches": ["--smallest_batch=32", "--largest_batch=512", "--branch_steps=8"],
        "at": "0.125,0.25,0.375,0.5",
        "repeats": 5,
    },
    "imagenette": {
        "flags": [
            "--model=small_resnet8",
            "--image_size=32",
            "--weight_decay=1e-4",
            "--micro_batch_size=32",
            "--warmup_epochs=1",
        ],
        "batch": 128,
        "learning_rate": 5.0,
        "epochs": 12,
        "target": 1.6,
        "batches": [64, 256, 512, 1024],
        "seeds": 1,
        "branches": ["--smallest_batch=64", "--largest_batch=1024", "--branch_steps=32"],
        "at": "0.08,0.33",
        "repeats": 3,
    },
}


def examples_at(folder, target):
    """Returns the examples after which a run has reached a training loss; infinite if it has not.

    The loss of an epoch is taken at its middle, and the losses are made decreasing.
    """
    results = json.loads((folder / "results.json").read_text())
    per_epoch = results["steps"] * results["global_batch_size"] / results["epochs"]
    lines = [x for x in metric_log.read(os.path.join(folder, METRICS)) if "val_loss" in x]
    points = [((x["epoch"] - 0.5) * per_epoch, math.log(x["loss"])) for x in lines]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 <= math.log(target) < y0:
            return x0 + (x1 - x0) * (y0 - math.log(target)) / (y0 - y1)
    return math.inf


def train(problem, batch, seed, epochs, *extra):
    """Trains at a batch, unless that run exists; returns its folder."""
    folder = pathlib.Path(FLAGS.runs_dir) / f"{FLAGS.problem}_b{batch}_seed{seed}"
    if not (folder / "results.json").exists():
        rate = scaling.lars_scaling(problem["learning_rate"], batch, problem["batch"])
        program(
            "launch.local",
            *problem["flags"],
            f"--data_dir={FLAGS.data_dir}",
            "--optimizer=lars",
            "--label_smoothing=0",
            "--schedule=constant",
            f"--global_batch_size={batch}",
            f"--learning_rate={rate}",
            f"--epochs={epochs}",
            f"--seed={seed}",
            f"--model_dir={folder}",
            *extra,
        )
    return folder


def program(module, *arguments):
    """Runs a program of the project."""
    print(f"{module}: {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def measure(problem):
    """Returns a row for each batch."""
    reference = train(problem, problem["batch"], 0, problem["epochs"], "--keep_checkpoints=1000")
    program(
        "launch.critical_batch",
        f"--model_dir={reference}",
        f"--at={problem['at']}",
        f"--repeats={problem['repeats']}",
        *problem["branches"],
    )
    measured = critical_batch_file.read(str(reference / critical_batch_file.FILE_NAME))
    needed = examples_at(reference, problem["target"])
    law = ExamplesNeeded(problem["batch"], phases_of(measured.points, needed))
    results = json.loads((reference / "results.json").read_text())
    per_epoch = results["steps"] * results["global_batch_size"] / results["epochs"]
    rows = []
    for batch in problem["batches"]:
        predicted, (low, high) = law(batch), law.interval(batch)
        epochs = math.ceil(1.6 * predicted / per_epoch) + 2
        found = [
            examples_at(train(problem, batch, seed, epochs), problem["target"])
            for seed in range(1, problem["seeds"] + 1)
        ]
        mean = statistics.fmean(found)
        rows.append(
            {
                "batch": batch,
                "predicted_examples": round(predicted),
                "predicted_low": round(low),
                "predicted_high": round(high),
                "measured_examples": round(mean) if math.isfinite(mean) else "not reached",
                "runs": " ".join(f"{one:.0f}" for one in found),
                "predicted_over_measured": f"{predicted / mean:.3f}",
                "reference_batch": problem["batch"],
                "reference_examples": round(needed),
                "target_loss": problem["target"],
                "critical_batch": round(law.critical_batch),
            }
        )
    return rows


def main(_):
    """Runs the benchmark."""
    rows = measure(PROBLEMS[FLAGS.problem])
    tables.show(rows)
    output = pathlib.Path(FLAGS.output_dir) / f"examples_to_target_{FLAGS.problem}.csv"
    output.parent.mkdir(parents=True, exist_ok=True)
    tables.write([row | {"machine": tables.machine()} for row in rows], output)


if __name__ == "__main__":
    flags.DEFINE_enum("problem", "digits", list(PROBLEMS), "Which problem.")
    flags.DEFINE_string("data_dir", "data/digits", "Prepared data.")
    flags.DEFINE_string("runs_dir", "runs/examples_to_target", "Folder for the runs.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Folder for the table.")
    app.run(main)

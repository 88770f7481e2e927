"""Accuracy of `planner.calibrate` on this machine: two short runs predict the others.

    python -m benchmarks.planner_local

Trains a small ResNet on the digits with one, two and four worker processes, calibrates with the
first two settings and predicts the rest. Settings take turns, so that other load on the machine
affects all equally. The fastest run of each setting is used, since other load can only slow a run.
Writes `benchmarks/results/planner_local.csv`.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

from benchmarks import tables
from benchmarks.local_run import train
from tf_lars import planner
from tf_lars.planner import Measurement

FLAGS = flags.FLAGS

GIVEN = ((1, 256), (2, 512))
"""Workers and global batch size of the runs used for calibration."""

PREDICTED = ((1, 512), (2, 256), (2, 1024), (4, 512))
"""Workers and global batch size of the predicted runs."""

MODEL = ("--model=small_resnet14_w16", "--image_size=32", "--epochs=6", "--warmup_epochs=1")


def compare(rates: dict[tuple[int, int], list[float]], folder: pathlib.Path) -> list[dict]:
    """Returns a row per setting: measured, and predicted from the first two settings only.

    Args:
      rates: Images per second of all runs, by workers and batch size.
      folder: Folder with a finished run of each setting, under "WORKERS-BATCH".
    """
    measured = {
        (workers, batch): dataclasses.replace(
            Measurement.load(str(folder / f"{workers}-{batch}")),
            step_seconds=batch / max(rates[workers, batch]),
        )
        for workers, batch in rates
    }
    fitted = planner.calibrate([measured[setting] for setting in GIVEN])
    rows = []
    for (workers, batch), measurement in measured.items():
        plan = planner.predict(
            accelerator=fitted, devices=workers, global_batch_size=batch, epochs=1
        )
        rows.append(
            {
                "workers": workers,
                "global_batch_size": batch,
                "role": "given" if (workers, batch) in GIVEN else "predicted",
                "runs": len(rates[workers, batch]),
                "slowest_images_per_second": round(min(rates[workers, batch])),
                "fastest_images_per_second": round(max(rates[workers, batch])),
                "measured_step_ms": round(1e3 * measurement.step_seconds, 1),
                "predicted_step_ms": round(1e3 * plan.step_seconds, 1),
                "error_percent": round(100 * (plan.step_seconds / measurement.step_seconds - 1), 1),
                "expected_error_percent": round(100 * plan.relative_error, 1),
                "machine": tables.machine(),
            }
        )
    return rows


def main(_):
    """Runs the benchmark; prints and writes its results."""
    settings = [*GIVEN, *PREDICTED]
    rates = {setting: [] for setting in settings}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(
            [
                *(sys.executable, "-m", "launch.prepare_imagenet", "--dataset=digits"),
                f"--output_dir={folder / 'digits'}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for round_ in range(FLAGS.rounds):
            for workers, batch in settings:
                model_dir = folder / f"{workers}-{batch}"
                one = train(MODEL, str(folder / "digits"), str(model_dir), workers, batch)
                rate = one["images_per_second"]
                rates[workers, batch].append(rate)
                print(
                    f"round {round_ + 1}/{FLAGS.rounds}: {workers} workers, batch {batch}: "
                    f"{rate:,.0f} images/s",
                    flush=True,
                )
        rows = compare(rates, folder)
    tables.show(rows)
    tables.write(rows, pathlib.Path(FLAGS.path))


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 3, "Runs per setting.", lower_bound=1)
    flags.DEFINE_string("path", "benchmarks/results/planner_local.csv", "File for the table.")


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""What a larger batch saves: messages and seconds per epoch with several workers on this machine.

    python -m benchmarks.communication_by_batch

Trains a ResNet with 2.8 million parameters on the digits with one, two and four worker processes,
which share the cores, at several global batches. A step reduces all gradients once, so an epoch
sends bytes in proportion to its steps, N / B. Settings take turns, so that other load affects all
equally; the fastest run of each counts, since other load can only slow a run. Writes
`benchmarks/results/communication_by_batch.csv`, which `benchmarks.large_batch_page` draws.
"""

import itertools
import pathlib
import tempfile

from absl import app, flags

from benchmarks import tables
from benchmarks.local_run import train
from tf_lars.data.prepare import digits

FLAGS = flags.FLAGS

MODEL = ("--model=small_resnet14_w64", "--image_size=8", "--epochs=8", "--warmup_epochs=1")
WORKERS, BATCHES = (1, 2, 4), (64, 256, 1024)


def row(workers: int, batch: int, results: list[dict]) -> dict:
    """Returns the row of a setting from all of its runs.

    The bytes are those that every worker sends, 2 (p - 1) / p times the gradients for each step of
    an all-reduce (`tf_lars.planner.communication`).
    """
    steps = digits.NUM_TRAIN / batch
    sent = 2 * (workers - 1) / workers * 4 * results[0]["parameters"]
    seconds = [digits.NUM_TRAIN / one["images_per_second"] for one in results]
    return {
        "workers": workers,
        "global_batch_size": batch,
        "runs": len(results),
        "parameters": results[0]["parameters"],
        "steps_per_epoch": round(steps, 2),
        "megabytes_per_epoch": round(steps * sent / 1e6, 1),
        "fastest_seconds_per_epoch": round(min(seconds), 3),
        "slowest_seconds_per_epoch": round(max(seconds), 3),
        "machine": tables.machine(),
    }


def main(_):
    """Runs the benchmark; prints and writes its results."""
    settings = list(itertools.product(WORKERS, BATCHES))
    results = {setting: [] for setting in settings}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        digits.prepare(str(folder / "digits"))
        for round_ in range(FLAGS.rounds):
            for workers, batch in settings:
                model_dir = folder / f"{workers}-{batch}"
                one = train(MODEL, str(folder / "digits"), str(model_dir), workers, batch)
                results[workers, batch].append(one)
                print(
                    f"round {round_ + 1}/{FLAGS.rounds}: {workers} workers, batch {batch}: "
                    f"{one['images_per_second']:,.0f} images/s",
                    flush=True,
                )
    rows = [row(*setting, found) for setting, found in results.items()]
    tables.show(rows)
    tables.write(rows, pathlib.Path(FLAGS.path))


def define_flags():
    """Defines the flags; not at import, since other benchmarks have flags of the same names."""
    flags.DEFINE_integer("rounds", 1, "Runs per setting.", lower_bound=1)
    flags.DEFINE_string("path", "benchmarks/results/communication_by_batch.csv", "File for rows.")


if __name__ == "__main__":
    define_flags()
    app.run(main)

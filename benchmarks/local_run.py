"""A short run of `launch.local` on the handwritten digits, for benchmarks of its speed."""

import json
import os
import subprocess
import sys


def train(model: tuple[str, ...], data_dir: str, model_dir: str, workers: int, batch: int) -> dict:
    """Trains once, without augmentation; returns the run's results.json.

    Args:
      model: Flags of the model, its images and its epochs.
      data_dir: Folder of the prepared digits.
      model_dir: Folder of the run, whose former one is moved aside.
      workers: Worker processes.
      batch: Global batch size.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "launch.local", *model),
            f"--data_dir={data_dir}",
            f"--model_dir={model_dir}",
            f"--num_workers={workers}",
            f"--global_batch_size={batch}",
            *("--learning_rate=2", "--augmentation=none", "--crop_fraction=1", "--resume=never"),
            "--epochs_between_evaluations=1000",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with open(os.path.join(model_dir, "results.json")) as file:
        return json.load(file)

"""A job of Ray Train on a Ray of this machine alone: python -m tests.helpers.ray_train_job FOLDER.

Trains on 450 digits and writes what the workers and the driver found to FOLDER/found.json.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from launch.on_ray import ray_environment

ROWS = 450


def rows(count):
    """Returns digits as rows of Ray Data."""
    from tests.helpers import training_cases

    return [
        {"image": (image[..., 0] / 255).astype(np.float32), "label": int(label)}
        for image, label in zip(*training_cases.images(count), strict=True)
    ]


def run(folder):
    """Runs the job; returns what was found."""
    import ray
    import ray.data
    import ray.train
    from ray.train.tensorflow import TensorflowTrainer

    from tests.helpers import ray_train_worker

    ray.data.DataContext.get_current().enable_progress_bars = False
    digits = rows(ROWS + 100)
    data = ray.data.from_items(digits[:ROWS], override_num_blocks=2).random_shuffle(seed=1)
    result = TensorflowTrainer(
        ray_train_worker.train,
        train_loop_config={"num_rows": data.count(), "marker": str(folder / "killed")},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            storage_path=str(folder / "runs"),
            failure_config=ray.train.FailureConfig(max_failures=1),
        ),
        datasets={
            "train": data,
            "validation": ray.data.from_items(digits[ROWS:], override_num_blocks=1),
        },
        dataset_config=ray.train.DataConfig(
            datasets_to_split=["train"],
            execution_options=ray.data.ExecutionOptions(preserve_order=True),
        ),
    ).fit()
    return {
        **result.return_value,
        "metrics": result.metrics,
        "reported": [metrics for _, metrics in result.best_checkpoints],
        **ray_train_worker.restored_by_driver(result.checkpoint),
    }


def main():
    """Starts Ray, runs the job and ends Ray."""
    ray_environment.prepare(None)
    import ray

    folder = pathlib.Path(sys.argv[1])
    temporary = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of sockets
    try:
        ray.init(
            address="local",
            num_cpus=3,  # two workers, and the data
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            _temp_dir=temporary,
            log_to_driver=False,
        )
        (folder / "found.json").write_text(json.dumps(run(folder)))
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()

"""Names of the files and folders that a run writes into its model folder."""

import os

from tf_lars.tracking.run_record import RunRecord
from tf_lars.training.checkpoint_names import checkpoint_names

CHECKPOINTS, TENSORBOARD, LOGS = "checkpoints", "tensorboard", "logs"
"""Folders."""

RESULTS, FLAGS, METRICS = "results.json", "flags.txt", "metrics.jsonl"
PICTURE, REPORT = "report.png", "report.html"
"""Files."""


def checkpoints_in(model_dir: str) -> list[str]:
    """Returns the names of a run's checkpoints, complete or not, oldest first."""
    return checkpoint_names(os.path.join(model_dir, CHECKPOINTS))


def record_of(model_dir: str) -> RunRecord:
    """Returns the record of a run, finished or not.

    Raises:
      InputError: The folder is not that of a run, or a file in it cannot be read.
    """
    settings, metrics, results = (
        os.path.join(model_dir, name) for name in (FLAGS, METRICS, RESULTS)
    )
    return RunRecord.load(model_dir, settings=settings, metrics=metrics, results=results)

"""Trains a model on this machine, in this process or in several worker processes.

python -m launch.local --model=resnet50 --data_dir=DATA --model_dir=RUN --num_workers=2
"""

import os

from absl import flags

from launch.cli import dry_run, launcher
from launch.run import preflight, process, workers
from launch.run.job import JobSettings
from launch.run.layout import LOGS
from launch.run.settings import TrainingSettings
from tf_lars.cluster import supervisor
from tf_lars.cluster.spec import Cluster, local_cluster
from tf_lars.errors import require


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.DEFINE_integer(
        "num_workers",
        1,
        "1 trains in this process, on all GPUs. More start that many worker processes "
        "(MultiWorkerMirroredStrategy), each with its share of the GPUs or cores, and restart them "
        "when one fails.",
        module_name="Job",
    )


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Trains in this process, or supervises worker processes."""
    num_workers = flags.FLAGS.num_workers
    require(num_workers >= 1, "--num_workers", "at least 1", num_workers)
    if dry_run.wanted():
        ports = supervisor.free_ports(num_workers) if num_workers > 1 else []
        return dry_run.show(settings, local_cluster(ports), joined=not ports)
    preflight.check(settings, num_workers)
    if num_workers == 1:
        return process.run(settings, Cluster(), job.startup_timeout)
    return workers.run_local(
        workers.WORKER,
        workers.arguments(settings, job),
        num_workers,
        os.path.join(settings.model_dir, LOGS),
        max_restarts=job.max_restarts,
    )


if __name__ == "__main__":
    launcher.run(main, define)

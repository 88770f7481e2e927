"""Trains a model on this machine, in this process or in several worker processes.

python -m launch.local --model=resnet50 --data_dir=DATA --model_dir=RUN --num_workers=2
"""

import dataclasses
import os

from launch.cli import dry_run, flags, launcher
from launch.run import preflight, process, workers
from launch.run.job import JobSettings
from launch.run.layout import LOGS
from launch.run.settings import TrainingSettings
from tf_lars.cluster import supervisor
from tf_lars.cluster.discovery import check_alone
from tf_lars.cluster.spec import Cluster, local_cluster
from tf_lars.setting import check, local_processes, setting


@dataclasses.dataclass(frozen=True)
class LocalSettings:
    """Settings that only this launcher has; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    num_workers: int = setting(
        "1 trains in this process, on all GPUs. More start that many worker processes "
        "(MultiWorkerMirroredStrategy), each with its share of the GPUs or cores, and restart them "
        "when one fails.",
        1,
        rule=local_processes(),
        group="Job",
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.define(LocalSettings)


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Trains in this process, or supervises worker processes."""
    num_workers = LocalSettings(**flags.values(LocalSettings)).num_workers
    check_alone("launch.local")
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

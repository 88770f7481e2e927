"""Trains a model on this machine, in this process or in several worker processes.

python -m launch.local --model=resnet50 --data_dir=DATA --model_dir=RUN --num_workers=2
"""

import os

from absl import flags as absl_flags

from launch import dry_run, job, launcher, training, workers
from launch.settings import TrainingSettings
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import supervisor
from tf_lars.errors import InputError

NUM_WORKERS = absl_flags.DEFINE_integer(
    "num_workers",
    1,
    "1 trains in this process, on all of its GPUs; more start so many processes that train "
    "together (MultiWorkerMirroredStrategy), each with its share of the GPUs or cores, and start "
    "them again when one fails.",
)


def main(settings: TrainingSettings) -> int:
    """Trains, or watches over the processes that do."""
    num_workers = NUM_WORKERS.value
    if num_workers < 1:
        raise InputError(f"--num_workers must be at least 1. Received: {num_workers}.")
    if dry_run.wanted():
        ports = supervisor.free_ports(num_workers) if num_workers > 1 else []
        return dry_run.show(settings, clusters.local(ports), joined=not ports)
    training.check(settings, num_workers)
    if num_workers == 1:
        return job.run(settings, clusters.Cluster(), absl_flags.FLAGS.startup_timeout)
    return workers.run_local(
        "launch.worker",
        job.arguments(settings),
        num_workers,
        os.path.join(settings.model_dir, training.LOGS),
        max_restarts=absl_flags.FLAGS.max_restarts,
    )


if __name__ == "__main__":
    for module in launcher.FLAG_MODULES:
        module.define()
        absl_flags.adopt_module_key_flags(module)  # --help lists them too
    launcher.run(main)

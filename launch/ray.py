"""Trains as a job of Ray Train, on a Ray cluster or on this machine alone.

python -m launch.ray --address=auto --num_workers=4 --gpus_per_worker=1 --flagfile=RECIPE \\
    --data_dir=DATA --model_dir=SHARED/RUN

Ray places the workers and restarts them. The checkout, the working folder and --model_dir must be
at the same paths on all nodes.
"""

import importlib.util

from launch.cli import dry_run, flags, launcher
from launch.on_ray import ray_environment
from launch.on_ray.ray_settings import RaySettings
from launch.run import preflight
from launch.run.job import JobSettings
from launch.run.settings import TrainingSettings
from tf_lars.cluster.discovery import check_alone
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import InputError


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.define(RaySettings)


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Starts the run of Ray Train, and follows it to its end."""
    check_alone("launch.ray")
    asked = RaySettings(**flags.values(RaySettings))
    sizes = asked.sizes(settings)
    if dry_run.wanted():
        print(f"ray         {', '.join(map(str, sizes))} workers: {asked.placement_strategy}")
        workers = tuple(f"worker-{rank}:1" for rank in range(sizes[-1]))
        return dry_run.show(
            settings,
            Cluster(workers, 0, "Ray, which chooses their nodes and ports"),
            devices_per_worker=asked.gpus_per_worker or 1,
            joined=False,
        )
    for name in ("ray", "psutil"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"launch.ray needs Ray and psutil. Received: an environment without {name}. "
                "Install them with pip install 'ray[data,train]>=2.60' psutil."
            )
    preflight.check(settings, sizes[-1])
    address = ray_environment.prepare(asked.address)
    from launch.on_ray import ray_job

    return ray_job.run(asked, address, sizes, settings, job)


if __name__ == "__main__":
    launcher.run(main, define)

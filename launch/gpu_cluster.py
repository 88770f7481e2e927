"""Trains on several hosts: run the same command on each of them.

python -m launch.gpu_cluster --worker_hosts=node0:2222,node1:2222 --flagfile=RECIPE \\
    --data_dir=DATA --model_dir=SHARED/RUN

Each host's launcher watches over that host's worker: one process for all of its GPUs, or several
with --workers_per_host. Who is in the job comes from the first of: --worker_hosts, TF_CONFIG,
Slurm (srun), a Kubernetes JobSet. --model_dir must be on a file system that all hosts share.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from absl import flags as absl_flags

from launch import dry_run, job, launcher, training, workers
from launch.settings import TrainingSettings
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import gpus, messages
from tf_lars.distribute.cluster import Cluster
from tf_lars.errors import InputError

WORKER_HOSTS = absl_flags.DEFINE_list(
    "worker_hosts",
    [],
    "host:port of every host, in the same order everywhere. Workers meet at these ports, and talk "
    "on others.",
)
TASK_INDEX = absl_flags.DEFINE_integer(
    "task_index",
    None,
    "Place of this host among --worker_hosts, from 0; by default the one whose address is this "
    "machine's.",
)
NUM_WORKERS = absl_flags.DEFINE_integer(
    "num_workers",
    None,
    "How many worker processes the whole job must have; by default as many as there turn out to "
    "be.",
)
WORKERS_PER_HOST = absl_flags.DEFINE_integer(
    "workers_per_host",
    1,
    "Worker processes on each host, each with its share of the GPUs and a port that follows the "
    "host's own.",
)


def main(settings: TrainingSettings) -> int:
    """Watches over the workers of this host."""
    per_host = WORKERS_PER_HOST.value
    if per_host < 1:
        raise InputError(f"--workers_per_host must be at least 1. Received: {per_host}.")
    views = _hosts().with_workers_per_host(per_host)
    found = views[0].num_workers
    if NUM_WORKERS.value not in (None, found):
        raise InputError(
            f"--num_workers must be the number of workers of the job. Received: "
            f"{NUM_WORKERS.value}, and {found} from {views[0].source}. Start as many, or leave "
            "the flag out."
        )
    if dry_run.wanted():
        on_host = max(1, len(gpus.names()) // per_host)
        return dry_run.show(settings, views[0], devices_per_worker=on_host)
    training.check(settings, found)
    return workers.run(
        "launch.worker",
        job.arguments(settings),
        lambda: views,
        os.path.join(settings.model_dir, training.LOGS),
        max_restarts=absl_flags.FLAGS.max_restarts,
    )


def _hosts() -> Cluster:
    """Returns the launchers of all hosts as a cluster."""
    hosts, index = WORKER_HOSTS.value, TASK_INDEX.value
    if hosts and index is None:
        index = _own_index(hosts)
    cluster = clusters.resolve(worker_hosts=hosts, task_index=index)
    if not cluster.workers:
        raise InputError(
            "A cluster must be named by --worker_hosts, TF_CONFIG, Slurm's srun or a Kubernetes "
            "JobSet. Received: none of them. On one machine, use python -m launch.local."
        )
    return cluster


def _own_index(hosts: list[str]) -> int:
    """Returns the place of this machine among the hosts."""
    Cluster(tuple(hosts), 0, clusters.FLAGS)  # addresses that are none are refused
    with ThreadPoolExecutor(max_workers=64) as pool:
        own = [index for index, is_own in enumerate(pool.map(_is_own, hosts)) if is_own]
    if len(own) != 1:
        raise InputError(
            "One of --worker_hosts must be this machine, or --task_index must say which. "
            f"Received: {len(own)} of {','.join(hosts)} with an address of this machine. Give "
            "--task_index."
        )
    return own[0]


def _is_own(address: str) -> bool:
    try:
        return messages.is_local(messages.resolve(clusters.split_address(address)[0]))
    except OSError:
        return False  # another host's name may resolve later


if __name__ == "__main__":
    for module in launcher.FLAG_MODULES:
        module.define()
        absl_flags.adopt_module_key_flags(module)  # --help lists them too
    launcher.run(main)

"""Trains on several hosts: run the same command on each of them.

python -m launch.gpu_cluster --worker_hosts=node0:2222,node1:2222 --flagfile=RECIPE \\
    --data_dir=DATA --model_dir=SHARED/RUN

Each host's launcher supervises that host's worker: one process for all of its GPUs, or several
with --workers_per_host. Without --worker_hosts, the environment says who is in the job: TF_CONFIG,
Slurm (srun), a Kubernetes JobSet and others (docs/cluster.md). Where it gives each process a rank
and no addresses, as mpirun does, --coordinator is the address at which all meet:

mpirun -n 2 python -m launch.gpu_cluster --coordinator=node0:2222 --flagfile=RECIPE ...

--model_dir must be on a file system that all hosts share.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from launch.cli import dry_run, flags, launcher
from launch.run import preflight, workers
from launch.run.job import JobSettings
from launch.run.layout import LOGS
from launch.run.settings import TrainingSettings
from tf_lars import machine
from tf_lars.cluster import messages
from tf_lars.cluster.discovery import WORKER_HOSTS_FLAG, resolve_cluster
from tf_lars.cluster.spec import MOST_WORKERS, Cluster, split_address
from tf_lars.errors import InputError
from tf_lars.setting import check, local_processes, setting, within

_GROUP = "Cluster"


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """Settings of the cluster; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    worker_hosts: tuple[str, ...] | None = setting(
        "host:port of every host, in the same order everywhere. Workers meet at these ports and "
        "then communicate on others.",
        None,
        group=_GROUP,
    )
    coordinator: str | None = setting(
        "host:port of the first host, at which all meet and learn each other's addresses; instead "
        "of --worker_hosts, where a launcher such as mpirun gives each process its rank, or "
        "--task_index does.",
        None,
        group=_GROUP,
    )
    task_index: int | None = setting(
        "Index of this host in --worker_hosts, from 0, or its rank with --coordinator; by default "
        "that of this machine's address, or the launcher's.",
        None,
        rule=within(0, MOST_WORKERS - 1),
        group=_GROUP,
    )
    num_workers: int | None = setting(
        "Number of worker processes that the whole job must have; by default any number. With "
        "--coordinator, by default what the launcher of the processes says.",
        None,
        rule=within(1, MOST_WORKERS),
        group=_GROUP,
    )
    workers_per_host: int = setting(
        "Worker processes on each host, each with its share of the GPUs. Their ports are "
        "consecutive, from the host's own.",
        1,
        rule=local_processes(),
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.define(ClusterSettings)


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Supervises the workers of this host."""
    asked = ClusterSettings(**flags.values(ClusterSettings))
    per_host = asked.workers_per_host
    views = _hosts(asked).with_workers_per_host(per_host)
    found = views[0].num_workers
    if asked.num_workers not in (None, found):
        raise InputError(
            f"--num_workers must be the number of workers of the job. Received: "
            f"{asked.num_workers}, and {found} from {views[0].source}. Start that many, or "
            "omit the flag."
        )
    if dry_run.wanted():
        on_host = max(1, len(machine.gpu_names()) // per_host)
        return dry_run.show(settings, views[0], devices_per_worker=on_host)
    preflight.check(settings, found)
    return workers.run(
        workers.WORKER,
        workers.arguments(settings, job),
        lambda: views,
        os.path.join(settings.model_dir, LOGS),
        max_restarts=job.max_restarts,
    )


def _hosts(asked: ClusterSettings) -> Cluster:
    """Returns the cluster of all hosts' launchers."""
    hosts, index = asked.worker_hosts or (), asked.task_index
    if hosts and index is None and not asked.coordinator:
        index = _own_index(hosts)
    cluster = resolve_cluster(
        worker_hosts=hosts,
        coordinator=asked.coordinator,
        task_index=index,
        num_workers=_hosts_of(asked),
    )
    if not cluster.workers:
        raise InputError(
            "A cluster must be described by --worker_hosts, --coordinator or a launcher's "
            "variables, such as TF_CONFIG or those of Slurm's srun. Received: none of them. On one "
            "machine, use python -m launch.local; docs/cluster.md lists what is read."
        )
    return cluster


def _hosts_of(asked: ClusterSettings) -> int | None:
    """Returns the number of hosts with --num_workers worker processes, if it is given."""
    if asked.num_workers is None:
        return None
    if asked.num_workers % asked.workers_per_host:
        raise InputError(
            "--num_workers must be a multiple of --workers_per_host. Received: "
            f"{asked.num_workers} and {asked.workers_per_host}. Start as many on each host."
        )
    return asked.num_workers // asked.workers_per_host


def _own_index(hosts: Sequence[str]) -> int:
    """Returns the index of this machine among the hosts."""
    Cluster(tuple(hosts), 0, WORKER_HOSTS_FLAG)  # refuses malformed addresses
    with ThreadPoolExecutor(max_workers=64) as pool:
        own = [index for index, is_own in enumerate(pool.map(_is_own, hosts)) if is_own]
    if len(own) != 1:
        raise InputError(
            "Exactly one of --worker_hosts must be this machine, unless --task_index is given. "
            f"Received: {len(own)} of {','.join(hosts)} with an address of this machine. Set "
            "--task_index."
        )
    return own[0]


def _is_own(address: str) -> bool:
    try:
        return messages.is_local(messages.resolve(split_address(address)[0]))
    except OSError:
        return False  # another host's name may not resolve yet


if __name__ == "__main__":
    launcher.run(main, define)

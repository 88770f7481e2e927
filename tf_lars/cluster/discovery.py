"""Cluster discovery: resolves flags and the environment to a `Cluster`.

The first source that describes a cluster is used: the caller's (flags), TF_CONFIG, a launcher that
gives ranks (`tf_lars.cluster.ranks`) within Slurm, Slurm, a Kubernetes JobSet, the platforms of
`tf_lars.cluster.platforms`, launchers of nodes that give ranks. Without any of them, the cluster is
this process alone.
"""

import os
from collections.abc import Mapping, Sequence

from tf_lars.cluster import platforms, ranks, slurm
from tf_lars.cluster.platforms import TF_CONFIG
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import InputError

WORKER_HOSTS_FLAG = "--worker_hosts"
"""Source of a cluster besides those of `ranks`, `slurm` and `platforms`."""


def resolve_cluster(
    environment: Mapping[str, str] = os.environ,
    *,
    worker_hosts: Sequence[str] = (),
    coordinator: str | None = None,
    task_index: int | None = None,
    num_workers: int | None = None,
    scontrol: slurm.Scontrol = slurm.scontrol,
) -> Cluster:
    """Returns the cluster that this process is in.

    Args:
      environment: Environment variables of the process.
      worker_hosts: Addresses "host:port" by rank, if given by the user.
      coordinator: Address "host:port" of rank 0 at which the processes meet, if given by the user.
      task_index: Rank of this process; with a coordinator, by default what its launcher says.
      num_workers: Number of processes that meet at the coordinator; by default what the launcher
        says.
      scontrol: Function that runs Slurm's `scontrol`, which knows the addresses of nodes.

    Raises:
      InputError: The source is contradictory or malformed, or says that there are several processes
        and not how they find each other.
    """
    if worker_hosts:
        if coordinator:
            raise InputError(
                "--worker_hosts lists all workers, and --coordinator is for those that do not "
                "know each other. Received: both. Give one of them."
            )
        if task_index is None:
            raise InputError(
                "--worker_hosts needs --task_index, the index of this host among them. Received: "
                "none."
            )
        return Cluster(tuple(worker_hosts), task_index, WORKER_HOSTS_FLAG)
    if coordinator:
        return ranks.meeting(environment, coordinator, task_index, num_workers)
    if task_index is not None:
        raise InputError(
            "--task_index is an index into --worker_hosts, or a rank with --coordinator. "
            f"Received: {task_index} without them."
        )
    return _from_environment(environment, scontrol) or Cluster()


def _from_environment(environment: Mapping[str, str], scontrol: slurm.Scontrol) -> Cluster | None:
    if environment.get(TF_CONFIG, "").strip():
        return _from_tf_config(environment)
    if not _slurm_has_started_it(environment):
        found = ranks.find(environment, ranks.LAUNCHERS)
        if found:
            return found
    if slurm.in_step(environment):
        workers, rank = slurm.workers_and_rank(environment, scontrol)
        return Cluster(workers, rank, slurm.SOURCE)
    if environment.get("JOBSET_NAME"):
        return Cluster(*platforms.from_jobset(environment), platforms.JOBSET)
    found = platforms.find(environment) or ranks.find(environment, ranks.NODE_LAUNCHERS)
    if not found:
        ranks.refuse_size_without_rank(environment)
    return found


def _slurm_has_started_it(environment: Mapping[str, str]) -> bool:
    """Returns whether srun itself has started this process, rather than a program in its task.

    srun sets variables of MPI too, and scripts those of torchrun, which then say the same; while
    mpirun and torchrun, which may run in a task of Slurm, give each process another rank.
    """
    if not environment.get("SLURM_STEP_NODELIST"):
        return False
    said = {
        (environment[one.rank], environment.get(one.size))
        for one in ranks.LAUNCHERS
        if environment.get(one.rank)
    }
    return said <= {(environment.get("SLURM_PROCID"), environment.get("SLURM_STEP_NUM_TASKS"))}


def check_alone(program: str, environment: Mapping[str, str] = os.environ) -> None:
    """Checks that this process of a program that trains alone is not one of several.

    Args:
      program: Name of the program, such as "launch.local".
      environment: Environment variables of the process.

    Raises:
      InputError: A variable says that several were started.
    """
    count, name = platforms.started(environment)
    if count == 1:
        count, name = ranks.started(environment)
    if count > 1:
        raise InputError(
            f"{program} trains with one process and those that it starts. Received: {count} "
            f"processes, by {name}, each of which would train alone. Start one, or run "
            f"launch.gpu_cluster, whose processes train together; or unset {name} if it belongs "
            "to another job."
        )


def _from_tf_config(environment: Mapping[str, str]) -> Cluster:
    (workers, rank), source = platforms.from_tf_config(environment[TF_CONFIG])
    tasks = slurm.num_tasks(environment)
    if source == TF_CONFIG and tasks not in (None, len(workers)):
        raise InputError(
            f"TF_CONFIG must list the workers that were started. Received: {len(workers)} in it, "
            f"and {tasks} Slurm tasks. Unset it if it belongs to another job, or unset "
            "SLURM_STEP_NUM_TASKS if srun has started something else that set it, such as Ray."
        )
    return Cluster(workers, rank, source)

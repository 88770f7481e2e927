"""Cluster discovery: resolves flags and the environment to a `Cluster`.

The first source that describes a cluster is used: the caller's hosts (flags), TF_CONFIG, Slurm, a
Kubernetes JobSet, Vertex AI's CLUSTER_SPEC, SageMaker. Without any of them, the cluster is this
process alone.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence

from tf_lars.cluster import platforms, slurm
from tf_lars.cluster.platforms import TF_CONFIG
from tf_lars.errors import InputError

WORKER_HOSTS_FLAG, JOBSET, ALONE = (
    "--worker_hosts",
    "the Kubernetes JobSet",
    "this machine alone",
)
"""Sources of a cluster besides those of `slurm` and `platforms`."""

_NUMBERS_OF_PROCESSES = (
    "SLURM_STEP_NUM_TASKS",  # srun
    "OMPI_COMM_WORLD_SIZE",  # Open MPI
    "PMI_SIZE",  # MPICH, Intel MPI
    "WORLD_SIZE",  # torchrun
)

JOBSET_PORT = 2222
"""Port at which the pods of a Kubernetes JobSet meet, unless the variable JOBSET_PORT is set."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one training job, seen from one of them.

    Attributes:
      workers: Addresses "host:port" by rank; empty for a single process without a network.
      rank: Index of this process in `workers`.
      source: Source of the cluster, for messages.
    """

    workers: tuple[str, ...] = ()
    rank: int = 0
    source: str = ALONE

    def __post_init__(self):
        wrong = [w for w in self.workers if not re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", w)]
        if wrong:
            raise InputError(
                f"Every worker needs an address of the form host:port. Received: {wrong[0]!r} "
                f"from {self.source}."
            )
        beyond = [w for w in self.workers if not 0 < split_address(w)[1] < 2**16]
        if beyond:
            raise InputError(
                f"A port must be from 1 to 65535. Received: {beyond[0]!r} from {self.source}."
            )
        twice = [w for w, count in collections.Counter(self.workers).items() if count > 1]
        if twice:
            raise InputError(
                f"Every worker must have a different address. Received: {twice[0]} more than "
                f"once from {self.source}."
            )
        if not 0 <= self.rank < self.num_workers:
            raise InputError(
                f"A worker's rank must be from 0 to {self.num_workers - 1} in a cluster of "
                f"{self.num_workers}. Received: {self.rank} from {self.source}."
            )

    @property
    def num_workers(self) -> int:
        """Number of processes in the job."""
        return max(1, len(self.workers))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names or IP addresses of the workers' hosts, by rank."""
        return tuple(split_address(worker)[0] for worker in self.workers)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files that only one process may write."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """Returns the name of a worker in messages."""
        return f"worker {rank} ({self.workers[rank]})"

    def tf_config(self) -> str:
        """Returns the value of TF_CONFIG that describes this cluster."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.workers)},
                "task": {"type": "worker", "index": self.rank},
                "source": self.source,  # for `resolve_cluster`; TensorFlow ignores it
            }
        )

    def with_workers_per_host(self, count: int) -> tuple["Cluster", ...]:
        """Returns the cluster as seen by each process of this host, with `count` on every host.

        The processes of host i have ranks i * count to i * count + count - 1, and consecutive ports
        from the host's own.
        """
        workers = []
        for host, port in map(split_address, self.workers):
            workers += [join_address(host, port + local) for local in range(count)]
        first = self.rank * count
        return tuple(Cluster(tuple(workers), first + local, self.source) for local in range(count))


def processes_started_alike(environment: Mapping[str, str]) -> tuple[int, str]:
    """Returns how many processes, this one included, a launcher such as srun has started.

    Returns:
      Their number, 1 if nothing says otherwise, and the variable that says so.
    """
    for name in _NUMBERS_OF_PROCESSES:
        if environment.get(name, "").isdecimal() and int(environment[name]) > 1:
            return int(environment[name]), name
    return 1, ""


def split_address(address: str) -> tuple[str, int]:
    """Returns the host and port of "host:port", an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Returns "host:port", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_cluster(ports: Sequence[int], rank: int = 0) -> Cluster:
    """Returns the cluster of processes on this machine, one for each port."""
    return Cluster(tuple(f"127.0.0.1:{port}" for port in ports), rank, "launch.local")


def resolve_cluster(
    environment: Mapping[str, str] = os.environ,
    *,
    worker_hosts: Sequence[str] = (),
    task_index: int | None = None,
    scontrol: slurm.Scontrol = slurm.scontrol,
) -> Cluster:
    """Returns the cluster that this process is in.

    Args:
      environment: Environment variables of the process.
      worker_hosts: Addresses "host:port" by rank, if given by the user.
      task_index: Rank of this process among them.
      scontrol: Function that runs Slurm's `scontrol`, which knows the addresses of nodes.

    Raises:
      InputError: If the source is contradictory or malformed.
    """
    if worker_hosts:
        if task_index is None:
            raise InputError(
                "--worker_hosts needs --task_index, the index of this host among them. Received: "
                "none."
            )
        return Cluster(tuple(worker_hosts), task_index, WORKER_HOSTS_FLAG)
    if task_index is not None:
        raise InputError(
            f"--task_index is an index into --worker_hosts. Received: {task_index} without them."
        )
    if environment.get(TF_CONFIG, "").strip():
        return _from_tf_config(environment)
    if slurm.in_step(environment):
        workers, rank = slurm.workers_and_rank(environment, scontrol)
        return Cluster(workers, rank, slurm.SOURCE)
    if environment.get("JOBSET_NAME"):
        return _from_jobset(environment)
    if environment.get(platforms.CLUSTER_SPEC, "").strip():
        workers, rank = platforms.from_cluster_spec(environment[platforms.CLUSTER_SPEC])
        return Cluster(workers, rank, platforms.CLUSTER_SPEC)
    if environment.get("SM_HOSTS", "").strip():
        workers, rank = platforms.from_sagemaker(environment)
        return Cluster(workers, rank, platforms.SAGEMAKER) if len(workers) > 1 else Cluster()
    return Cluster()


def _from_tf_config(environment: Mapping[str, str]) -> Cluster:
    (workers, rank), source = platforms.from_tf_config(environment[TF_CONFIG])
    tasks = slurm.num_tasks(environment)
    if source == TF_CONFIG and tasks not in (None, len(workers)):
        raise InputError(
            f"TF_CONFIG must list the workers that were started. Received: {len(workers)} in it, "
            f"and {tasks} Slurm tasks. Unset it if it belongs to another job."
        )
    return Cluster(workers, rank, source)


def _from_jobset(environment: Mapping[str, str]) -> Cluster:
    """Reads the variables that `launch.render_kubernetes` sets; the DNS names are JobSet's."""
    try:
        jobset = environment["JOBSET_NAME"]
        prefix = "-".join(
            [jobset, environment["JOBSET_REPLICATED_JOB"], environment["JOBSET_JOB_INDEX"]]
        )
        pods = int(environment["JOBSET_NUM_PODS"])
        rank = int(environment["JOB_COMPLETION_INDEX"])
        port = int(environment.get("JOBSET_PORT", JOBSET_PORT))
    except (KeyError, ValueError) as error:
        raise InputError(
            "A pod of a JobSet needs JOBSET_NAME, JOBSET_REPLICATED_JOB, JOBSET_JOB_INDEX, "
            f"JOBSET_NUM_PODS and JOB_COMPLETION_INDEX. Received: {error!r}. Render the manifest "
            "with python -m launch.render_kubernetes."
        ) from error
    workers = tuple(f"{prefix}-{i}.{jobset}:{port}" for i in range(pods))
    return Cluster(workers, rank, JOBSET)

"""Jobs whose launcher tells each process its rank and the number of processes, not the addresses.

| launcher | rank | number | of this host's processes | where worker 0 is |
|---|---|---|---|---|
| torchrun, Azure ML, PyTorchJob | RANK | WORLD_SIZE | LOCAL_RANK, LOCAL_WORLD_SIZE | MASTER_ADDR |
| Open MPI | OMPI_COMM_WORLD_RANK | ..._SIZE | ..._LOCAL_RANK, ..._LOCAL_SIZE | MASTER_ADDR |
| MPICH, Intel MPI | PMI_RANK | PMI_SIZE | MPI_LOCALRANKID, MPI_LOCALNRANKS | MASTER_ADDR |
| Horovod | HOROVOD_RANK | HOROVOD_SIZE | HOROVOD_LOCAL_RANK, ..._SIZE | MASTER_ADDR |
| Kubeflow Trainer | PET_NODE_RANK | PET_NNODES | | PET_MASTER_ADDR |
| PMIx | PMIX_RANK | given, or WORLD_SIZE | | MASTER_ADDR |
| Indexed Job of Kubernetes | JOB_COMPLETION_INDEX | given, or WORLD_SIZE | | MASTER_ADDR |

The processes meet at the coordinator, which is the address of rank 0, and learn each other's
addresses there (`tf_lars.cluster.rendezvous`).
"""

import dataclasses
from collections.abc import Mapping

from tf_lars.cluster.platforms import PORT
from tf_lars.cluster.spec import Cluster, join_address
from tf_lars.errors import InputError

COORDINATOR_FLAG = "--coordinator"
_SIZE = "WORLD_SIZE"
_AZURE_NODES = ("AZ_BATCH_MASTER_NODE", "AZ_BATCHAI_MPI_MASTER_NODE")


@dataclasses.dataclass(frozen=True)
class Launcher:
    """The variables of a launcher.

    Attributes:
      name: Its name in messages.
      rank: Variable with the rank of a process.
      size: Variable with the number of processes, if it has one.
      local_rank: Variable with the rank among the processes of the same host, if it has one.
      local_size: Variable with the number of the processes of the same host, if it has one.
      coordinator: Prefix of the variables MASTER_ADDR and MASTER_PORT.
    """

    name: str
    rank: str
    size: str = ""
    local_rank: str = ""
    local_size: str = ""
    coordinator: str = ""


LAUNCHERS = (
    Launcher("torchrun", "RANK", _SIZE, "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher("Horovod", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
)
"""Launchers of single processes, which may themselves run within one of another kind."""

NODE_LAUNCHERS = (
    Launcher("Kubeflow Trainer", "PET_NODE_RANK", "PET_NNODES", coordinator="PET_"),
    Launcher("PMIx", "PMIX_RANK"),
    Launcher("the Indexed Job", "JOB_COMPLETION_INDEX"),
)
"""Launchers whose variables others may have set or inherited too."""

_OTHER_SIZES = ("SKYPILOT_NUM_NODES", "JOBSET_NUM_PODS")
_SLURM = Launcher("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


def find(environment: Mapping[str, str], launchers: tuple[Launcher, ...]) -> Cluster | None:
    """Returns the cluster of the first launcher that says that it has started several processes.

    Args:
      environment: Environment variables of the process.
      launchers: Launchers to look for.

    Raises:
      InputError: Its variables are malformed, or the coordinator or the number is missing.
    """
    for launcher in launchers:
        if not environment.get(launcher.rank):
            continue
        name = _size_name(environment, launcher)
        if name is None:
            if launcher.size:  # a variable of this name that belongs to something else
                continue
            raise InputError(
                f"{launcher.name} must say how many processes it has started. Received: "
                f"{launcher.rank}={environment[launcher.rank]} alone. Give --num_workers with "
                f"{COORDINATOR_FLAG}=HOST:PORT, or set {_SIZE} and MASTER_ADDR; or unset "
                f"{launcher.rank} to train in this process alone."
            )
        size = _number(environment, name, 1)
        if size > 1:
            return _cluster(
                launcher,
                environment,
                _number(environment, launcher.rank, 0),
                size,
                _coordinator(launcher, environment, name, size),
                launcher.name,
            )
    return None


def meeting(
    environment: Mapping[str, str], coordinator: str, rank: int | None, size: int | None
) -> Cluster:
    """Returns the cluster of the processes that meet at a given address.

    Args:
      environment: Environment variables of the process.
      coordinator: Address "host:port" of rank 0.
      rank: Rank of this process; by default that of the first launcher with a rank.
      size: Number of processes; by default that of the same launcher.

    Raises:
      InputError: The rank or the number is missing or malformed.
    """
    launchers = (*LAUNCHERS, _SLURM, *NODE_LAUNCHERS)
    launcher = next((one for one in launchers if environment.get(one.rank)), None)
    if rank is None and launcher:
        rank = _number(environment, launcher.rank, 0)
    if size is None:
        name = _size_name(environment, launcher)
        size = _number(environment, name, 1) if name else None
    if rank is None or size is None:
        missing = [
            flag for flag, value in (("task_index", rank), ("num_workers", size)) if value is None
        ]
        raise InputError(
            f"{COORDINATOR_FLAG} needs the rank of each process and their number. Received: "
            f"neither --{missing[0]} nor a launcher's variable for it, such as RANK and {_SIZE}. "
            f"Give {' and '.join(f'--{flag}' for flag in missing)}."
        )
    return _cluster(launcher, environment, rank, size, coordinator, COORDINATOR_FLAG)


def refuse_size_without_rank(environment: Mapping[str, str]) -> None:
    """Refuses a number of processes above 1 that no variable with the rank belongs to.

    Raises:
      InputError: There is such a variable.
    """
    count, name = started(environment)
    if count > 1:
        raise InputError(
            f"Each of several processes must know its rank. Received: {name}={count}, and no "
            f"variable with a rank. Set RANK, {_SIZE} and MASTER_ADDR for each, give "
            f"{COORDINATOR_FLAG} with --task_index and --num_workers, or unset {name} to train "
            "in this process alone."
        )


def started(environment: Mapping[str, str]) -> tuple[int, str]:
    """Returns how many processes a launcher has started, this one included, 1 if nothing says so.

    Returns:
      Their number, and the variable that says so.
    """
    launchers = (*LAUNCHERS, _SLURM, *NODE_LAUNCHERS)
    names = [one.size for one in launchers] + [one.local_size for one in launchers]
    for name in (*filter(None, names), *_OTHER_SIZES):
        text = environment.get(name, "")
        if text.isdecimal() and int(text) > 1:
            return int(text), name
    return 1, ""


def _cluster(
    launcher: Launcher | None,
    environment: Mapping[str, str],
    rank: int,
    size: int,
    coordinator: str,
    source: str,
) -> Cluster:
    cluster = Cluster((coordinator, *[""] * (size - 1)), rank, source)
    if launcher and environment.get(launcher.local_size) and environment.get(launcher.local_rank):
        return dataclasses.replace(
            cluster,
            local_rank=_number(environment, launcher.local_rank, 0),
            local_size=_number(environment, launcher.local_size, 1),
        )
    return cluster


def _size_name(environment: Mapping[str, str], launcher: Launcher | None) -> str | None:
    """Returns the variable that says how many processes there are, or None."""
    names = (launcher.size if launcher else "", _SIZE)
    return next((name for name in names if environment.get(name)), None)


def _coordinator(
    launcher: Launcher, environment: Mapping[str, str], size_name: str, size: int
) -> str:
    """Returns the address that a launcher's variables give for rank 0."""
    prefix = launcher.coordinator
    host = environment.get(f"{prefix}MASTER_ADDR", "").strip()
    if not host:  # Azure ML names the first node for MPI; its port is another program's
        nodes = [environment[name] for name in _AZURE_NODES if environment.get(name)]
        host = nodes[0].partition(":")[0] if nodes else ""
    if not host:
        raise InputError(
            f"The {size} processes that {launcher.name} has started ({size_name}) need an address "
            f"at which they meet. Received: no {prefix}MASTER_ADDR. Give the launchers "
            f"{COORDINATOR_FLAG}=HOST:PORT, an address of the first process, or set "
            f"{prefix}MASTER_ADDR and {prefix}MASTER_PORT; or unset {size_name} to train in this "
            "process alone."
        )
    name = f"{prefix}MASTER_PORT"
    port = _number(environment, name, 1) if environment.get(name) else PORT
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1  # torchrun itself listens at MASTER_PORT
    return join_address(host, port)


def _number(environment: Mapping[str, str], name: str, least: int) -> int:
    text = environment[name].strip()
    if not text.isdecimal() or int(text) < least:
        elastic = " The number is fixed while a job runs." if ":" in text else ""
        raise InputError(
            f"{name} must be a number from {least}. Received: {text[:50]!r}.{elastic} Correct it, "
            "or unset it if it belongs to another job."
        )
    return int(text)

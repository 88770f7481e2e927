"""Resolves the tasks of a Slurm step to workers.

TensorFlow's own SlurmClusterResolver needs nvidia-smi and host names that resolve
(tensorflow/tensorflow#56894, #36094). Here Slurm supplies the addresses.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

from tf_lars.errors import InputError

SOURCE = "Slurm"
FIRST_PORT, PORTS = 20_000, 12_000
"""Worker r of job j listens on port `FIRST_PORT + j % PORTS + r`, so that jobs rarely collide.

Linux uses ports from 32,768 on for outgoing connections.
"""

SECONDS = 60

Scontrol = Callable[[Sequence[str]], str]


def scontrol(arguments: Sequence[str]) -> str:
    """Runs `scontrol` and returns what it prints.

    Raises:
      InputError: If it is missing, fails, or does not answer within `SECONDS`.
    """
    try:
        return subprocess.run(
            ["scontrol", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        raise InputError(
            "A Slurm job needs scontrol to find the addresses of its nodes. Received: "
            f"{reason}. Put it on the PATH, or list the workers with --worker_hosts."
        ) from error


def in_step(environment: Mapping[str, str]) -> bool:
    """Returns whether this process is a task of a Slurm step.

    Raises:
      InputError: If it is in a job of several tasks, but was not started by `srun`.
    """
    if not environment.get("SLURM_JOB_ID"):
        return False
    if environment.get("SLURM_STEP_NODELIST") and environment.get("SLURM_STEP_TASKS_PER_NODE"):
        return True
    tasks = environment.get("SLURM_NTASKS", "1")
    if tasks != "1":
        raise InputError(
            f"A Slurm job of {tasks} tasks must start its workers with srun. Received: a process "
            "outside of any step. Put srun before the command, or unset SLURM_JOB_ID to train in "
            "this process alone."
        )
    return False


def num_tasks(environment: Mapping[str, str]) -> int | None:
    """Returns the number of tasks in the step, or None outside of a step."""
    text = environment.get("SLURM_STEP_NUM_TASKS", "")
    return int(text) if text.isdecimal() else None


def workers_and_rank(
    environment: Mapping[str, str], run_scontrol: Scontrol = scontrol
) -> tuple[tuple[str, ...], int]:
    """Returns the addresses of all tasks by rank, and this task's rank.

    Raises:
      InputError: If the step leaves nodes of its job idle, or lacks a variable.
    """
    try:
        counts = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        components = [(environment["SLURM_STEP_NODELIST"], counts)]
        rank = int(environment["SLURM_PROCID"])
        job = int(environment["SLURM_JOB_ID"])
        if environment.get("SLURM_HET_SIZE", "1") != "1":
            components = _components(environment)
    except (KeyError, ValueError) as error:
        raise InputError(
            "A Slurm task needs SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, SLURM_PROCID "
            f"and SLURM_JOB_ID. Received: {error!r}. Start it with srun."
        ) from error
    tasks = sum(sum(counts) for _, counts in components)
    if len(components) > 1 and sum(counts) != tasks:
        raise InputError(
            "srun must start all components of a heterogeneous job. Received: a step with "
            f"{sum(counts)} of its {tasks} tasks. Run srun --het-group=0-{len(components) - 1}."
        )
    nodes_of_job = environment.get("SLURM_JOB_NUM_NODES", "")
    if nodes_of_job.isdecimal() and int(nodes_of_job) != len(counts):
        raise InputError(
            f"srun must use all nodes of its job. Received: a step on {len(counts)} of "
            f"{nodes_of_job} nodes. Run srun without --nodes and --ntasks, or request fewer nodes "
            "from sbatch."
        )
    first = FIRST_PORT + job % PORTS
    hosts = [host for one in components for host in _hosts(*one, run_scontrol)]
    return tuple(f"{host}:{first + i}" for i, host in enumerate(hosts)), rank


def _components(environment: Mapping[str, str]) -> list[tuple[str, list[int]]]:
    """Returns the nodes and their numbers of tasks, by component of a heterogeneous job.

    Ranks go by component, whereas the step's list of nodes is sorted by name.
    """
    return [
        (
            environment[f"SLURM_JOB_NODELIST_HET_GROUP_{i}"],
            tasks_per_node(environment[f"SLURM_TASKS_PER_NODE_HET_GROUP_{i}"]),
        )
        for i in range(int(environment["SLURM_HET_SIZE"]))
    ]


def _hosts(nodes: str, counts: Sequence[int], run_scontrol: Scontrol) -> list[str]:
    """Returns the address of each task on some nodes."""
    names = run_scontrol(["show", "hostnames", nodes]).split()
    if len(names) != len(counts):
        raise InputError(
            "SLURM_STEP_TASKS_PER_NODE must have a count for each node. Received: "
            f"{len(counts)} counts for the {len(names)} nodes {nodes}."
        )
    described = run_scontrol(["--oneliner", "show", "node", nodes])
    addresses = dict(re.findall(r"NodeName=(\S+).*?NodeAddr=(\S+)", described))
    return [
        addresses.get(n, n) for n, count in zip(names, counts, strict=True) for _ in range(count)
    ]


def tasks_per_node(text: str) -> list[int]:
    """Returns the counts in Slurm's notation: 2, 2, 2, 1 for "2(x3),1".

    Raises:
      ValueError: If the text is not in this notation.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not found:
            raise ValueError(f"{text!r} is not a list like 2(x3),1")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts

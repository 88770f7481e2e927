"""Runs a program in worker processes on this machine."""

import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence

from launch.run.job import JOB_VARIABLE, STARTS_VARIABLE, JobSettings
from launch.run.settings import TrainingSettings
from tf_lars import files, machine
from tf_lars.cluster import restarts, supervisor
from tf_lars.cluster.spec import Cluster, local_cluster
from tf_lars.cluster.supervisor import Outcome
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED, InputError
from tf_lars.setting import as_arguments

WORKER = "launch.worker"
"""Module that a worker process runs."""


def arguments(settings: TrainingSettings, job: JobSettings) -> list[str]:
    """Returns the command-line arguments of `WORKER`."""
    return [*as_arguments(settings), *as_arguments(job)]


def run(
    module: str,
    arguments: Sequence[str],
    clusters_at_start: Callable[[], Sequence[Cluster]],
    logs: str,
    *,
    max_restarts: int = 0,
) -> int:
    """Runs the workers to their end and reports a failure; returns the exit code.

    Args:
      module: Module that each worker runs as `python -m module arguments...`, with its TF_CONFIG.
      arguments: Command-line arguments of the module.
      clusters_at_start: Function called at each start, which returns the cluster as each worker
        sees it.
      logs: Folder for the workers' log files. The first worker's output is also shown.
      max_restarts: Maximum number of restarts after failures.
    """

    # Already set if this launcher is itself restarted, for example by a Slurm job.
    job = os.environ.get(JOB_VARIABLE) or uuid.uuid4().hex
    earlier_starts = int(os.environ.get(STARTS_VARIABLE, "0"))

    def start(starts: int) -> Outcome:
        views = clusters_at_start()
        of_job = {JOB_VARIABLE: job, STARTS_VARIABLE: str(earlier_starts + starts)}
        devices = _shares_of_gpus(views)
        return supervisor.run(
            [[sys.executable, "-m", module, *arguments]] * len(views),
            [
                {"TF_CONFIG": view.tf_config(), **of_job, **devices[i]}
                for i, view in enumerate(views)
            ],
            local_logs,
            cpus=shares_of_cores(len(views)),
            first_rank=views[0].rank,
            stop=stop,
        )

    stop = restarts.StopRequest()
    with local_folder(logs) as local_logs:
        outcome = restarts.supervise(start, max_restarts=max_restarts, stop=stop)
    if outcome.exit_code in (EXIT_DONE, EXIT_PREEMPTED):
        return outcome.exit_code
    return report_failure(outcome)


def report_failure(outcome: Outcome) -> int:
    """Reports why the workers have failed; returns the exit code of their launcher."""
    if outcome.exit_code == EXIT_BAD_INPUT:  # its sentence is enough
        print(outcome.error, file=sys.stderr)
    else:
        print(f"\n{outcome.report()}", file=sys.stderr)
    return outcome.shell_code


@contextlib.contextmanager
def local_folder(logs: str) -> Iterator[str]:
    """Yields a local folder for growing log files; copies them to remote storage at the end."""
    if not files.is_remote(logs):
        yield logs
        return
    local = tempfile.mkdtemp(prefix="tf_lars-logs-")  # kept, since messages name its files
    try:
        yield local
    finally:
        with files.writing(logs):
            files.make_folder(logs)
            for name in files.names(local):
                files.copy(os.path.join(local, name), os.path.join(logs, name))


def run_local(
    module: str, arguments: Sequence[str], num_workers: int, logs: str, *, max_restarts: int = 0
) -> int:
    """Runs a job whose workers are all on this machine, on fresh ports at each start: see `run`."""

    def clusters_at_start() -> Sequence[Cluster]:
        ports = supervisor.free_ports(num_workers)
        return [local_cluster(ports, rank) for rank in range(num_workers)]

    return run(module, arguments, clusters_at_start, logs, max_restarts=max_restarts)


def _shares_of_gpus(views: Sequence[Cluster]) -> list[dict[str, str]]:
    """Returns the variables that give each worker its GPUs."""
    names = machine.gpu_identifiers()
    own = machine.share_of_process(names, views[0].local_rank, views[0].local_size)
    if not own or (own == names and len(views) == 1):
        return [{}] * len(views)
    if len(own) < len(views):
        raise InputError(
            f"Each worker needs a GPU. Received: {len(own)} GPUs and {len(views)} workers. Start "
            f"{len(own)} workers, or set CUDA_VISIBLE_DEVICES to an empty text to use the CPU."
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(machine.share_of_process(own, i, len(views)))}
        for i in range(len(views))
    ]


def shares_of_cores(num_workers: int) -> list[list[int]] | None:
    """Returns the cores of each worker, or None if there are fewer cores than workers.

    Two processes with one core each train 1.5 times as fast as one process on both cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return None
    return [cores[rank::num_workers] for rank in range(num_workers)]

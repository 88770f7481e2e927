"""A worker's part in a job on Ray: it runs `launch.worker` as a process, and tells how it ended.

Training runs in a process beside Ray's, as under the other launchers: it gets signals, writes its
log, has an exit code, and ends with Ray's process, even if that is killed. Restarts are Ray's.
"""

import contextlib
import dataclasses
import json
import os
import sys
import threading
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from launch.on_ray.ray_board import CALL_SECONDS
from launch.run import workers
from launch.run.job import JOB_VARIABLE, STARTS_VARIABLE
from tf_lars.cluster import restarts, supervisor
from tf_lars.cluster.spec import Cluster, join_address
from tf_lars.cluster.supervisor import Outcome
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED

SOURCE = "Ray"
_ADDRESSES = "TF_LARS_RAY_WORKERS"
# Above those of Ray's own processes (10,002 to 19,999), below those that Linux assigns.
_PORTS = range(20_000, 32_000)


class WorkerFailed(RuntimeError):
    """Failure of a worker, upon which Ray restarts all of them as often as it may."""


@dataclasses.dataclass(frozen=True)
class WorkerConfig:
    """What a worker is given.

    Attributes:
      board: Handle of the job's `Board`.
      arguments: Command-line arguments of `launch.worker`.
      folder: Working folder of the launcher, which all nodes must have.
      logs: Folder for the workers' log files.
      job: Name shared by all starts of the job.
      earlier_starts: Starts of the job before this launcher's.
      sizes: Numbers of workers that can train, in increasing order; the others of those that Ray
        starts have nothing to do.
      shares_cores: Whether the workers divide the cores of their node among themselves.
    """

    board: Any
    arguments: list[str]
    folder: str
    logs: str
    job: str
    earlier_starts: int
    sizes: list[int]
    shares_cores: bool


class Addresses(BackendConfig):
    """Backend of Ray Train that tells each worker the addresses of all."""

    @property
    def backend_cls(self):
        """Class of the backend."""
        return _Backend


class _Backend(Backend):
    def on_start(self, worker_group, backend_config):
        addresses = worker_group.execute(_own_address)
        while len(set(addresses)) < len(addresses):  # two of one node have drawn the same port
            addresses = worker_group.execute(_own_address)
        worker_group.execute(_remember, json.dumps(addresses))


def _own_address() -> str:
    ip = ray.util.get_node_ip_address()
    return join_address(ip, *supervisor.free_ports(1, ip, _PORTS))


def _remember(addresses: str) -> None:
    os.environ[_ADDRESSES] = addresses


def train(given: dict[str, Any]) -> None:
    """Runs `launch.worker`, and returns unless Ray is to restart the workers.

    Args:
      given: Fields of `WorkerConfig`.

    Raises:
      WorkerFailed: If the worker has failed, and restarting the group may help.
    """
    config = WorkerConfig(**given)
    context = ray.train.get_context()
    rank, started = context.get_world_rank(), context.get_world_size()
    count = max(size for size in config.sizes if size <= started)
    if rank >= count:
        return
    cluster = Cluster(tuple(json.loads(os.environ[_ADDRESSES])[:count]), rank, SOURCE)
    earlier = _call(config.board.begin, cluster.workers) + config.earlier_starts
    outcome = _run(config, cluster, earlier, context)
    has_trained = _call(config.board.end, cluster.workers, outcome)
    if outcome.exit_code in (EXIT_DONE, EXIT_BAD_INPUT, EXIT_PREEMPTED) or not has_trained:
        return
    raise WorkerFailed(outcome.report())


def _run(config: WorkerConfig, cluster: Cluster, earlier: int, context) -> Outcome:
    """Runs the worker's process to its end, and again after it was told to save and stop."""
    try:
        os.chdir(config.folder)  # Ray's own is a folder for the job's results
    except OSError as error:
        node = f"{ray.util.get_node_ip_address()} ({error.strerror})"
        message = (
            "error: Every node of Ray must have the launcher's working folder. Received: "
            f"{config.folder!r}, which is missing on {node}. Put it on a file system that all "
            "nodes share."
        )
        return Outcome(EXIT_BAD_INPUT, cluster.rank, "", message, False)
    stop = _StopOfJob(config.board)
    cores = None
    if config.shares_cores:
        shares = workers.shares_of_cores(context.get_local_world_size())
        cores = [shares[context.get_local_rank()]] if shares else None

    def show(block: bytes) -> None:
        if cluster.is_chief:
            config.board.show.remote(block)

    def start(starts: int) -> Outcome:
        of_job = {JOB_VARIABLE: config.job, STARTS_VARIABLE: str(earlier + starts)}
        return supervisor.run(
            [[sys.executable, "-m", workers.WORKER, *config.arguments]],
            [{"TF_CONFIG": cluster.tf_config(), **of_job}],
            logs,
            cpus=cores,
            first_rank=cluster.rank,
            stop=stop,
            console=show,
        )

    with workers.local_folder(config.logs) as logs:
        return restarts.supervise(start, max_restarts=0, stop=stop)


class _StopOfJob(restarts.StopRequest):
    """Request of the launcher to stop, which the worker asks for while it runs."""

    def __init__(self, board: Any):
        # Signals are the business of Ray's own process.
        self._event = threading.Event()
        self._board = board

    def __call__(self) -> bool:
        if not self._event.is_set():
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                if ray.get(self._board.beat.remote(), timeout=CALL_SECONDS):
                    self._event.set()
        return self._event.is_set()


def _call(method, *arguments):
    return ray.get(method.remote(*arguments), timeout=CALL_SECONDS)

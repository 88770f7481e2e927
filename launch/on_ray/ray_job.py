"""The launcher's part in a job on Ray: it starts the run, shows it, and knows how it ended."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch.on_ray.ray_board import CALL_SECONDS, Board, News
from launch.on_ray.ray_settings import RaySettings, amounts
from launch.on_ray.ray_worker import Addresses, WorkerConfig, train
from launch.run import workers
from launch.run.job import JOB_VARIABLE, STARTS_VARIABLE, JobSettings
from launch.run.layout import LOGS
from launch.run.settings import TrainingSettings
from tf_lars import files, machine
from tf_lars.cluster import restarts
from tf_lars.cluster.spec import split_address
from tf_lars.cluster.supervisor import SAVE_SECONDS
from tf_lars.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_PEER_FAILED,
    EXIT_PREEMPTED,
    InputError,
)

PROGRESS_SECONDS = 10.0
"""Interval of messages about what the launcher waits for."""
CONNECT_SECONDS = 10.0
"""Time limit for the connection to a cluster's head."""
END_SECONDS = 20.0
"""Time limit for the processes of the run's own Ray to end by themselves."""
_POLL_SECONDS = 0.5
_CAUSE_SECONDS = 3.0
_OBJECT_STORE_BYTES = 100 * 2**20  # holds nothing; Ray asks for 75 MiB at least


def run(
    asked: RaySettings,
    address: str | None,
    sizes: list[int],
    settings: TrainingSettings,
    job: JobSettings,
) -> int:
    """Trains on Ray to the end, and reports a failure; returns the exit code.

    Args:
      asked: Settings of the job on Ray.
      address: Address of the cluster; None starts a Ray for the run.
      sizes: Numbers of workers that can train.
      settings: Settings of the run.
      job: Settings of the job.

    Raises:
      InputError: If the cluster is not there, or lacks the resources.
    """
    if address is None:
        asked.check_resources([{"Alive": True, "Resources": _of_this_machine()}], sizes[0])
    with _connected(address, asked.dashboard) as is_own:
        asked.check_resources(ray.nodes(), sizes[0])
        stop = restarts.StopRequest()  # after Ray's own handler
        here = ray.get_runtime_context().get_node_id()
        on_this_node = NodeAffinitySchedulingStrategy(here, soft=False)
        actor: Any = ray.remote(Board)
        board = actor.options(num_cpus=0, scheduling_strategy=on_this_node).remote()
        config = WorkerConfig(
            board=board,
            arguments=workers.arguments(settings, job),
            folder=os.getcwd(),
            logs=os.path.join(settings.model_dir, LOGS),
            job=os.environ.get(JOB_VARIABLE) or uuid.uuid4().hex,
            earlier_starts=int(os.environ.get(STARTS_VARIABLE, "0")),
            sizes=sizes,
            shares_cores=is_own and not asked.gpus_per_worker,
        )
        elastic = len(sizes) > 1
        scaling = ScalingConfig(
            num_workers=(sizes[0], sizes[-1]) if elastic else sizes[-1],
            use_gpu=bool(asked.gpus_per_worker),
            resources_per_worker=asked.resources,
            placement_strategy=asked.placement_strategy,
        )
        with _storage(settings.model_dir) as storage:
            run_config: Any = RunConfig(
                name=config.job,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=job.max_restarts),
            )
            trainer = DataParallelTrainer(
                train,
                train_loop_config={
                    one.name: getattr(config, one.name) for one in dataclasses.fields(config)
                },
                backend_config=Addresses(),
                scaling_config=scaling,
                run_config=run_config,
            )
            return _Watch(trainer, board, stop, asked, sizes, job).to_end()


@contextlib.contextmanager
def _connected(address: str | None, dashboard: bool) -> Iterator[bool]:
    """Connects to Ray for this context; yields whether it was started for the run, and ends then.

    Raises:
      InputError: The cluster cannot be reached.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address:
        try:
            if address != "auto":  # Ray itself would try for minutes
                socket.create_connection(split_address(address), CONNECT_SECONDS).close()
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                "--address must be that of a Ray cluster that runs, of which this machine is a "
                f"node. Received: {address} ({' '.join(str(error).split())[:300]}). Start it with "
                "ray start, or leave --address out to train on this machine alone."
            ) from error
        try:
            yield False
        finally:
            ray.shutdown()
        return
    resources = _of_this_machine()
    folder = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of sockets
    try:
        context: Any = ray.init(
            address="local",
            num_cpus=resources["CPU"],
            num_gpus=resources["GPU"],
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=folder,
            **quiet,
        )
        if dashboard:
            print(f"Ray's dashboard is at http://{context.dashboard_url}", flush=True)
        yield True
    finally:
        processes = psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    """Waits until processes of Ray have ended, and kills those that do not end by themselves.

    Ray's shutdown returns while its actors are still ending.
    """
    _, left = psutil.wait_procs(processes, END_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, END_SECONDS)


def _of_this_machine() -> dict[str, int]:
    return {"CPU": len(os.sched_getaffinity(0)), "GPU": len(machine.gpu_names())}


@contextlib.contextmanager
def _storage(model_dir: str) -> Iterator[str]:
    """Yields a folder that all nodes see, for what Ray notes about the run; it is removed."""
    if files.is_remote(model_dir):
        yield os.path.join(model_dir, ".ray")
        return
    folder = os.path.join(os.path.abspath(model_dir), ".ray")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Watch:
    """Follows a run of Ray Train, which runs in another thread.

    Args:
      trainer: The run.
      board: Handle of the job's `Board`.
      stop: Request to this process to stop.
      asked: Settings of the job on Ray.
      sizes: Numbers of workers that can train.
      job: Settings of the job.
    """

    def __init__(self, trainer, board, stop, asked, sizes, job):
        self._board, self._stop = board, stop
        self._asked, self._sizes, self._job = asked, sizes, job
        self._error: Exception | None = None
        self._told_starts, self._told_at = 0, time.monotonic()
        self._stopped_at = float("inf")

        def fit():
            try:
                trainer.fit()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=fit, name="ray-train", daemon=True)

    def to_end(self) -> int:
        """Runs it; returns the exit code."""
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
            news = self._news()
            self._tell_of_restarts(news)
            if self._stop() and self._stopped_at == float("inf"):
                self._stopped_at = time.monotonic()
                self._board.stop.remote()
            if self._stop() and news.silence > PROGRESS_SECONDS:
                return EXIT_PREEMPTED  # nothing runs that could save
            if time.monotonic() - self._stopped_at > SAVE_SECONDS + PROGRESS_SECONDS:
                print(f"\nerror: no end within {SAVE_SECONDS:g} s of SIGTERM", file=sys.stderr)
                return EXIT_PEER_FAILED
            late = self._silence(news)
            if late is not None:
                return late
        return self._exit_code(self._news())

    def _news(self) -> News:
        news = ray.get(self._board.news.remote(), timeout=CALL_SECONDS)
        sys.stdout.buffer.write(news.output)
        sys.stdout.buffer.flush()
        return news

    def _tell_of_restarts(self, news: News) -> None:
        """Reports the failure of a group of workers, once, which Ray restarts."""
        if not news.cause or self._told_starts == news.starts or not news.has_trained:
            return
        if news.cause.exit_code in (EXIT_BAD_INPUT, EXIT_PREEMPTED) or self._stop():
            return
        if news.cause.exit_code == EXIT_PEER_FAILED and news.silence < _CAUSE_SECONDS:
            return  # the cause is about to be told
        self._told_starts = news.starts
        if news.starts <= self._job.max_restarts:
            print(
                f"\n{news.cause.report()}\nRay restarts the workers: restart {news.starts} of at "
                f"most {self._job.max_restarts}",
                file=sys.stderr,
                flush=True,
            )

    def _silence(self, news: News) -> int | None:
        """Tells whom the launcher waits for; returns an exit code if it was too long."""
        is_late = news.silence > self._job.startup_timeout
        if not is_late and min(news.silence, time.monotonic() - self._told_at) < PROGRESS_SECONDS:
            return None
        self._told_at = time.monotonic()
        resources = self._asked.resources
        wanted = f"{self._sizes[0]} workers with {amounts(resources, resources)} each"
        free = amounts(ray.available_resources(), resources)
        if is_late:
            print(
                f"error: Ray must start {wanted} within {self._job.startup_timeout:g} s. Received: "
                f"{free} that are free. End other jobs, start more nodes, ask for less, or raise "
                "--startup_timeout.",
                file=sys.stderr,
                flush=True,
            )
            return EXIT_PEER_FAILED if news.starts else EXIT_BAD_INPUT
        print(f"waiting for Ray to start {wanted}; free: {free}", flush=True)
        return None

    def _exit_code(self, news: News) -> int:
        """Returns the exit code of the job, and reports why it failed."""
        cause = news.cause
        if cause is None:
            if self._error is None:
                return EXIT_DONE
            print(f"\nerror: {' '.join(str(self._error).split())[:2000]}", file=sys.stderr)
            return 1
        if self._stop() or cause.exit_code == EXIT_PREEMPTED:
            return EXIT_PREEMPTED if cause.exit_code in _STOPPED else cause.shell_code
        return workers.report_failure(cause)


_STOPPED = (EXIT_PREEMPTED, -signal.SIGTERM)

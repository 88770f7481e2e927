"""Runs the workers of a job as processes of this machine, and ends them together.

Each worker has a log file, to which every start appends; what rank 0 writes to standard output
appears on the console too. When one fails, the others get a moment to notice and say so, and are
then killed; what is reported is the first failure. When the supervisor itself dies, even by
SIGKILL, a pipe that only it holds open is closed, and the workers end (`end_with_supervisor`).
"""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED

_STARTED = "--- started"
PIPE_VARIABLE = "TF_LARS_SUPERVISOR_PIPE"
GRACE_SECONDS = 5.0
"""How long the other workers may take to end by themselves after the first has failed."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """The first worker that failed: its rank, exit code (negative: a signal) and log file."""

    rank: int
    exit_code: int
    log: str

    def __str__(self) -> str:
        if self.exit_code < 0:
            how = f"was killed by {signal.Signals(-self.exit_code).name}"
        else:
            how = f"ended with exit code {self.exit_code}"
        return f"worker {self.rank} {how}; its log is {self.log}"


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback interface that nobody uses at present."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    log_dir: str,
    *,
    cpus: Sequence[Sequence[int]] | None = None,
) -> Failure | None:
    """Runs one process per worker until all have ended.

    Args:
      commands: command line of each rank.
      environments: variables to set for each rank, on top of this process's own.
      log_dir: folder for `rank-0.log`, `rank-1.log`, ...
      cpus: cores that each rank is pinned to; by default none is.

    Returns:
      None when all have ended with 0, otherwise the first failure. KeyboardInterrupt passes
      through after all workers have ended.
    """
    os.makedirs(log_dir, exist_ok=True)
    logs = [os.path.join(log_dir, f"rank-{rank}.log") for rank in range(len(commands))]
    read_end, write_end = os.pipe()
    workers: list[subprocess.Popen] = []
    console: threading.Thread | None = None
    try:
        for rank, command in enumerate(commands):
            with open(logs[rank], "a") as log:  # the console thread appends to it as well
                log.write(f"{_STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
                log.flush()
                worker = subprocess.Popen(
                    command,
                    env={**os.environ, **environments[rank], PIPE_VARIABLE: str(read_end)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if rank == 0 else log,
                    stderr=log,
                    pass_fds=[read_end],
                    # Ctrl-C is for the supervisor, which then ends the workers in order.
                    start_new_session=True,
                )
            workers.append(worker)
            if cpus:
                os.sched_setaffinity(worker.pid, cpus[rank])
        console = threading.Thread(target=_copy_output, args=(workers[0], logs[0]), daemon=True)
        console.start()
        return _wait(workers, logs)
    finally:
        for worker in workers:
            _end(worker)
        os.close(read_end)
        os.close(write_end)
        if console:
            console.join(timeout=GRACE_SECONDS)


def end_with_supervisor() -> None:
    """Called in a worker: ends this process as soon as its supervisor is gone."""
    pipe = os.environ.get(PIPE_VARIABLE)
    if pipe is None:
        return

    def watch():
        os.read(int(pipe), 1)  # returns when the supervisor's end closes, for whatever reason
        os._exit(EXIT_PEER_FAILED)

    threading.Thread(target=watch, daemon=True).start()


def error_of(log: str, lines: int = 12) -> str:
    """Returns what a failed worker's log says of the reason.

    That is its `error: ...` line where there is one, otherwise its last lines; those of the last
    start alone.
    """
    with open(log, errors="replace") as file:
        last_start = re.split(rf"^{_STARTED}.*\n", file.read(), flags=re.MULTILINE)[-1]
    content = [line.rstrip() for line in last_start.splitlines() if line.strip()]
    told = [line for line in content if line.startswith("error: ")]
    return told[-1] if told else "\n".join(content[-lines:])


def _wait(workers: Sequence[subprocess.Popen], logs: Sequence[str]) -> Failure | None:
    ended = threading.Semaphore(0)
    order: list[int] = []

    def wait_for(rank: int) -> None:
        workers[rank].wait()
        order.append(rank)
        ended.release()

    for rank in range(len(workers)):
        threading.Thread(target=wait_for, args=(rank,), daemon=True).start()
    deadline = None
    for _ in workers:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not ended.acquire(timeout=remaining):
            break
        if deadline is None and workers[order[-1]].returncode != 0:
            deadline = time.monotonic() + GRACE_SECONDS
    failed = [rank for rank in order if workers[rank].returncode != 0]
    if not failed:
        return None
    # A worker that only noticed another's end is not the cause, even if it ended first.
    rank = min(failed, key=lambda r: (_rank_of_cause(workers[r].returncode), failed.index(r)))
    return Failure(rank, workers[rank].returncode, logs[rank])


def _rank_of_cause(exit_code: int) -> int:
    return {EXIT_BAD_INPUT: 0, EXIT_PEER_FAILED: 2}.get(exit_code, 1)


def _copy_output(worker: subprocess.Popen, log: str) -> None:
    assert worker.stdout is not None
    with open(log, "ab") as file:
        while block := os.read(worker.stdout.fileno(), 1 << 16):
            file.write(block)
            file.flush()
            sys.stdout.buffer.write(block)
            sys.stdout.flush()


def _end(worker: subprocess.Popen) -> None:
    """Kills a worker and what it has started.

    TensorFlow takes SIGTERM for a notice and trains on; and a worker needs no warning, because
    what it writes is whole or not there.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()

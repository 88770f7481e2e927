"""Runs the workers of this machine as processes, and ends them together.

Each worker has a log file, to which every start appends (`tf_lars.cluster.worker_log`). The first
worker's standard output also appears on the console. When a worker fails, the others get a few
seconds to report what they noticed and are then killed; the first failure is reported. Workers send
heartbeats to their supervisor (`start_heartbeat`): a silent worker is killed, and if the supervisor
itself dies, even by SIGKILL, the kernel kills its workers.
"""

import contextlib
import ctypes
import dataclasses
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from tf_lars.cluster.worker_log import WorkerLog
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PEER_FAILED, EXIT_PREEMPTED

STATUS_VARIABLE = "TF_LARS_STATUS_PIPE"
GRACE_SECONDS = 5.0
"""Time limit for the other workers to end by themselves after the first failure."""
SAVE_SECONDS = 300.0
"""Time limit for all workers to save and end after a SIGTERM."""
SILENCE_SECONDS = 30.0
"""Time limit between heartbeats of a worker that has taken a step."""
START_SECONDS = 180.0
"""The same before its first step: TensorFlow, loading or waiting for peers, blocks all threads."""
END_SECONDS = 30.0
"""Time limit for a killed worker to end."""
_BEAT_SECONDS = 5.0
_BLOCK_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
"""Most bytes that a pipe of an unprivileged process can hold (/proc/sys/fs/pipe-max-size)."""
_ALIVE, _TRAINED = b".", b"t"
_PR_SET_PDEATHSIG = 1
# Below those of Slurm jobs (tf_lars.cluster.slurm) and those that Linux assigns.
_PORTS = range(10_240, 20_000)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a group of workers ended.

    Attributes:
      exit_code: Exit code of the first worker that failed, negative for a signal; 0 if none did.
      rank: Rank of that worker in the whole job.
      log: Path of its log file.
      error: Its error message, from its log.
      trained: Whether any of the workers had taken a step.
    """

    exit_code: int
    rank: int
    log: str
    error: str
    trained: bool

    def __str__(self) -> str:
        if self.exit_code < 0:
            how = f"was killed by {signal.Signals(-self.exit_code).name}"
        else:
            how = f"ended with exit code {self.exit_code}"
        return f"worker {self.rank} {how}; its log is {self.log}"

    @property
    def shell_code(self) -> int:
        """The exit code as a shell has it: 128 and the number of the signal, if one killed it."""
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code

    def report(self) -> str:
        """Returns a description that ends with the error message, if there is one."""
        return f"{self}:\n{self.error}" if self.error else str(self)


def free_ports(count: int, address: str = "127.0.0.1", among: range = _PORTS) -> list[int]:
    """Returns ports of an address of this machine that are currently free."""
    ports: list[int] = []
    # A port that Linux assigns could go to another program before the worker binds it; and programs
    # that seed `random` identically would try the same ports.
    for port in random.SystemRandom().sample(among, len(among)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind((address, port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} ports in {among} are free")


def run(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    log_dir: str,
    *,
    cpus: Sequence[Sequence[int]] | None = None,
    first_rank: int = 0,
    stop: Callable[[], bool] = lambda: False,
    console: Callable[[bytes], object] | None = None,
) -> Outcome:
    """Runs one process per worker until all have ended.

    Args:
      commands: Command line of each worker.
      environments: Variables to set for each worker, in addition to those of this process.
      log_dir: Folder for `rank-0.log`, `rank-1.log`, ...
      cpus: Cores to pin each worker to; by default workers are not pinned.
      first_rank: Rank of the first worker in the whole job.
      stop: Function called once a second. When it returns True, all workers get SIGTERM, once, and
        time to save.
      console: Function that shows the first worker's output; by default it goes to standard output.

    Returns:
      The outcome. KeyboardInterrupt passes through after all workers have ended.
    """
    with contextlib.suppress(OSError):  # a run can do without its log
        os.makedirs(log_dir, exist_ok=True)
    workers: list[_Worker] = []
    with selectors.DefaultSelector() as selector:
        try:
            for i, command in enumerate(commands):
                rank = first_rank + i
                log = WorkerLog(os.path.join(log_dir, f"rank-{rank}.log"))
                workers.append(
                    _Worker(
                        rank,
                        command,
                        environments[i],
                        log,
                        console=(console or _print) if i == 0 else None,
                        cpus=cpus[i] if cpus else None,
                        selector=selector,
                    )
                )
            return _outcome(_wait(workers, selector, stop), workers)
        finally:
            for worker in workers:
                worker.end()


def start_heartbeat() -> None:
    """Sends heartbeats to the supervisor, and makes this process end with it. Call it first."""
    status = os.environ.get(STATUS_VARIABLE)
    if status is None:
        return
    # The kernel's SIGKILL also ends a process that is stopped.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def beat():
        pause = threading.Event()
        while True:
            try:
                os.write(int(status), _ALIVE)
            except OSError:
                os._exit(EXIT_PEER_FAILED)  # the supervisor died before prctl
            pause.wait(_BEAT_SECONDS)

    threading.Thread(target=beat, name="alive", daemon=True).start()


def has_trained() -> None:
    """Tells the supervisor that this worker has taken steps, so that a restart makes sense."""
    status = os.environ.get(STATUS_VARIABLE)
    if status is not None:
        os.write(int(status), _TRAINED)


def error_of(lines: Sequence[str], last: int = 12) -> str:
    """Returns the last `error: ...` line of a failed worker, or its last lines if there is none."""
    content = [line.rstrip() for line in lines if line.strip()]
    last = min(last, len(content))
    errors = [line for line in content if line.startswith("error: ")]
    return errors[-1] if errors else "\n".join(content[len(content) - last :])


def _print(block: bytes) -> None:
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


class _Worker:
    """A worker process, its log, and its last heartbeat."""

    def __init__(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: WorkerLog,
        *,
        console: Callable[[bytes], object] | None,
        cpus: Sequence[int] | None,
        selector: selectors.BaseSelector,
    ):
        self.rank = rank
        self.log = log
        self.trained = False
        self.heard = time.monotonic()
        self.note = ""
        self._console = console
        self._selector = selector
        log.note(f"--- started {time.strftime('%Y-%m-%d %H:%M:%S')}")
        status, of_worker = os.pipe()
        own_cpus = os.sched_getaffinity(0)
        try:
            if cpus:  # inherited, so that the worker never runs on others
                os.sched_setaffinity(0, cpus)
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment, STATUS_VARIABLE: str(of_worker)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[of_worker],
                # Ctrl-C goes to the supervisor alone, which then ends the workers in order.
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, own_cpus)
            os.close(of_worker)
        assert self.process.stdout
        assert self.process.stderr
        self._status = status
        for fd, take in (
            (self.process.stdout.fileno(), self._show),
            (self.process.stderr.fileno(), log.write),
            (status, self._note_status),
        ):
            selector.register(fd, selectors.EVENT_READ, (self, take))
        self._ended = os.pidfd_open(self.process.pid)
        selector.register(self._ended, selectors.EVENT_READ, (self, None))

    def kill(self) -> None:
        """Kills the worker and the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills the worker if it is still alive, and closes its pipes."""
        self.kill()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            print(
                f"error: worker {self.rank}, process {self.process.pid}, cannot be killed: it is "
                "waiting for a device or a file system",
                file=sys.stderr,
            )
        os.close(self._ended)
        os.close(self._status)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        self.log.close()

    def drain(self) -> None:
        """Reads the rest of an ended worker's output.

        Processes that it has started may still write, so no more is read than a pipe can hold.
        """
        for key in list(self._selector.get_map().values()):
            worker, take = key.data
            if worker is self and take:
                os.set_blocking(key.fd, False)
                with contextlib.suppress(BlockingIOError):
                    for _ in range(_PIPE_BYTES // _BLOCK_BYTES):
                        if not (block := os.read(key.fd, _BLOCK_BYTES)):
                            break
                        take(block)
                self._selector.unregister(key.fd)

    def _show(self, block: bytes) -> None:
        self.log.write(block)
        if self._console is None:
            return
        try:
            self._console(block)
        except BrokenPipeError:  # the reader has had enough, as in `| head`
            raise
        except OSError:  # the console is a file on a full disk: as for the log
            pass

    def _note_status(self, block: bytes) -> None:
        self.heard = time.monotonic()
        self.trained = self.trained or _TRAINED in block


def _wait(
    workers: Sequence[_Worker], selector: selectors.BaseSelector, stop: Callable[[], bool]
) -> list[_Worker]:
    """Waits until all workers have ended or a time limit has passed; returns those that ended."""
    ended: list[_Worker] = []
    deadline, stopping = float("inf"), False
    while len(ended) < len(workers) and time.monotonic() < deadline:
        begin = time.monotonic()
        for key, _ in selector.select(timeout=min(1.0, max(0.0, deadline - time.monotonic()))):
            worker, take = key.data
            if take is None:
                selector.unregister(key.fd)
                worker.process.wait()
                worker.drain()
                ended.append(worker)
                if worker.process.returncode != 0 and not stopping:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            elif worker in ended:
                continue
            elif block := os.read(key.fd, _BLOCK_BYTES):
                take(block)
            else:  # it has closed this end
                selector.unregister(key.fd)
        if not stopping and stop():
            stopping, deadline = True, min(deadline, time.monotonic() + SAVE_SECONDS)
            for worker in workers:
                if worker not in ended:
                    worker.process.terminate()
        for worker in workers:
            if time.monotonic() - begin > _BEAT_SECONDS:  # a terminal or disk blocked this loop
                worker.heard = time.monotonic()
            limit = SILENCE_SECONDS if worker.trained else START_SECONDS
            if worker not in ended and time.monotonic() - worker.heard > limit:
                worker.note = f"error: no heartbeat for {limit:g} s: it hangs"
                worker.kill()
    return ended


def _outcome(ended: Sequence[_Worker], workers: Sequence[_Worker]) -> Outcome:
    trained = any(worker.trained for worker in workers)
    failed = [worker for worker in ended if worker.process.returncode != 0]
    if not failed:
        left = [worker for worker in workers if worker not in ended]
        if not left:
            return Outcome(EXIT_DONE, workers[0].rank, workers[0].log.path, "", trained)
        late = f"error: it did not end within {SAVE_SECONDS:g} s of SIGTERM"
        return Outcome(-signal.SIGKILL, left[0].rank, left[0].log.path, late, trained)
    # A worker that only noticed a lost peer is not the cause, even if it ended first.
    first = min(failed, key=lambda w: (rank_of_cause(w.process.returncode), failed.index(w)))
    killed = first.process.returncode == -signal.SIGKILL
    # The last lines of a worker killed from outside do not show the cause.
    error = first.note or error_of(first.log.lines(), last=0 if killed else 12)
    return Outcome(first.process.returncode, first.rank, first.log.path, error, trained)


def rank_of_cause(exit_code: int) -> int:
    """Returns a number that is lower for exit codes that rather are the cause of the others."""
    return {EXIT_BAD_INPUT: 0, EXIT_PEER_FAILED: 2, EXIT_PREEMPTED: 3}.get(exit_code, 1)

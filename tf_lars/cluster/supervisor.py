"""Runs the workers of this machine as processes, and ends them together.

Each worker has a log file, to which every start appends; what the first one writes to standard
output appears on the console too. When one fails, the others get a moment to notice and say so,
and are then killed; what is reported is the first failure. A worker tells its supervisor every few
seconds that it lives (`start_heartbeat`): one that is silent is killed, and when the supervisor
itself dies, even by SIGKILL, the kernel kills its workers.
"""

import collections
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
from typing import BinaryIO

from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PEER_FAILED, EXIT_PREEMPTED

STATUS_VARIABLE = "TF_LARS_STATUS_PIPE"
GRACE_SECONDS = 5.0
"""How long the other workers may take to end by themselves after the first has failed."""
SAVE_SECONDS = 300.0
"""How long all may take to save and end after a SIGTERM."""
SILENCE_SECONDS = 30.0
"""How long a worker may be silent once it has trained."""
START_SECONDS = 180.0
"""The same before: while TensorFlow loads and waits for peers, no other thread of it runs."""
END_SECONDS = 30.0
"""How long a killed worker may take to be gone."""
_BEAT_SECONDS = 5.0
_ALIVE, _TRAINED = b".", b"t"
_PR_SET_PDEATHSIG = 1
# Below those of Slurm jobs (tf_lars.cluster.slurm) and those that Linux gives out.
_PORTS = range(10_240, 20_000)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a group of workers ended.

    Attributes:
      exit_code: of the first worker that failed; 0 if none did; negative for a signal.
      rank: of that worker, in the whole job.
      log: its log file.
      error: what its log says of the reason.
      trained: whether any of them had taken a step.
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

    def report(self) -> str:
        """Returns this with the reason below, where one is known."""
        return f"{self}:\n{self.error}" if self.error else str(self)


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback interface that nobody uses at present."""
    ports: list[int] = []
    # Those that Linux gives out by itself might be another worker's before their own has taken
    # them; and programs that seed `random` alike would try the same ones.
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"no {count} ports of {_PORTS} are free")


def run(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    log_dir: str,
    *,
    cpus: Sequence[Sequence[int]] | None = None,
    first_rank: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs one process per worker until all have ended.

    Args:
      commands: command line of each worker.
      environments: variables to set for each, on top of this process's own.
      log_dir: folder for `rank-0.log`, `rank-1.log`, ...
      cpus: cores that each worker is pinned to; by default none is.
      first_rank: rank of the first of them in the whole job.
      stop: asked once a second; when it says yes, all get SIGTERM, once, and time to save.

    Returns:
      How they ended. KeyboardInterrupt passes through after all workers have ended.
    """
    with contextlib.suppress(OSError):  # a run is worth more than its log
        os.makedirs(log_dir, exist_ok=True)
    workers: list[_Worker] = []
    with selectors.DefaultSelector() as selector:
        try:
            for i, command in enumerate(commands):
                rank = first_rank + i
                log = os.path.join(log_dir, f"rank-{rank}.log")
                workers.append(
                    _Worker(
                        rank,
                        command,
                        environments[i],
                        log,
                        console=sys.stdout.buffer if i == 0 else None,
                        cpus=cpus[i] if cpus else None,
                        selector=selector,
                    )
                )
            return _outcome(_wait(workers, selector, stop), workers)
        finally:
            for worker in workers:
                worker.end()


def start_heartbeat() -> None:
    """Called first in a worker: ties its life to the supervisor's, and tells it of its own."""
    status = os.environ.get(STATUS_VARIABLE)
    if status is None:
        return
    # The kernel's word reaches a process that is stopped, too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def beat():
        pause = threading.Event()
        while True:
            try:
                os.write(int(status), _ALIVE)
            except OSError:
                os._exit(EXIT_PEER_FAILED)  # the supervisor was gone before it could be watched
            pause.wait(_BEAT_SECONDS)

    threading.Thread(target=beat, name="alive", daemon=True).start()


def has_trained() -> None:
    """Called in a worker after its first steps: from now on a restart makes sense."""
    status = os.environ.get(STATUS_VARIABLE)
    if status is not None:
        os.write(int(status), _TRAINED)


def error_of(lines: Sequence[str], last: int = 12) -> str:
    """Returns what a failed worker has written of the reason.

    That is its last `error: ...` line where there is one, otherwise its last lines.
    """
    content = [line.rstrip() for line in lines if line.strip()]
    last = min(last, len(content))
    told = [line for line in content if line.startswith("error: ")]
    return told[-1] if told else "\n".join(content[len(content) - last :])


class _Worker:
    """A worker process, its log, and what has been heard of it."""

    def __init__(
        self,
        rank: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: str,
        *,
        console: BinaryIO | None,
        cpus: Sequence[int] | None,
        selector: selectors.BaseSelector,
    ):
        self.rank = rank
        self.log = log
        self.trained = False
        self.heard = time.monotonic()
        self.note = ""
        self._tail: collections.deque[bytes] = collections.deque([b""], maxlen=200)
        self._console = console
        self._selector = selector
        self._write(f"--- started {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        self._tail.clear()
        self._tail.append(b"")
        status, of_worker = os.pipe()
        own_cpus = os.sched_getaffinity(0)
        try:
            if cpus:  # inherited, so that the worker never finds itself on others
                os.sched_setaffinity(0, cpus)
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment, STATUS_VARIABLE: str(of_worker)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[of_worker],
                # Ctrl-C is for the supervisor, which then ends the workers in order.
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
            (self.process.stderr.fileno(), self._write),
            (status, self._note_status),
        ):
            selector.register(fd, selectors.EVENT_READ, (self, take))
        self._ended = os.pidfd_open(self.process.pid)
        selector.register(self._ended, selectors.EVENT_READ, (self, None))

    def lines(self) -> list[str]:
        """Returns the last lines that it has written."""
        return [line.decode(errors="replace") for line in self._tail]

    def kill(self) -> None:
        """Kills the worker and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills it where it still lives, and frees what belongs to it."""
        self.kill()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            print(
                f"error: worker {self.rank}, process {self.process.pid}, cannot be killed: it "
                "waits for a device or a file system",
                file=sys.stderr,
            )
        os.close(self._ended)
        os.close(self._status)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def drain(self) -> None:
        """Takes what an ended worker has left in its pipes."""
        for key in list(self._selector.get_map().values()):
            worker, take = key.data
            if worker is self and take:
                os.set_blocking(key.fd, False)
                with contextlib.suppress(BlockingIOError):
                    while block := os.read(key.fd, 1 << 16):
                        take(block)
                self._selector.unregister(key.fd)

    def _show(self, block: bytes) -> None:
        self._write(block)
        if self._console:
            self._console.write(block)
            self._console.flush()

    def _write(self, block: bytes) -> None:
        first, *rest = block.split(b"\n")
        self._tail[-1] += first
        self._tail.extend(rest)
        # A full disk must not end the run, which may find room for its checkpoints again.
        with contextlib.suppress(OSError), open(self.log, "ab") as file:
            file.write(block)

    def _note_status(self, block: bytes) -> None:
        self.heard = time.monotonic()
        self.trained = self.trained or _TRAINED in block


def _wait(
    workers: Sequence[_Worker], selector: selectors.BaseSelector, stop: Callable[[], bool]
) -> list[_Worker]:
    """Waits until all have ended, or some time after the first failure; returns who has ended."""
    ended: list[_Worker] = []
    deadline, told = float("inf"), False
    while len(ended) < len(workers) and time.monotonic() < deadline:
        begin = time.monotonic()
        for key, _ in selector.select(timeout=min(1.0, max(0.0, deadline - time.monotonic()))):
            worker, take = key.data
            if take is None:
                selector.unregister(key.fd)
                worker.process.wait()
                worker.drain()
                ended.append(worker)
                if worker.process.returncode != 0 and not told:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            elif worker in ended:
                continue
            elif block := os.read(key.fd, 1 << 16):
                take(block)
            else:  # it has closed this end
                selector.unregister(key.fd)
        if not told and stop():
            told, deadline = True, min(deadline, time.monotonic() + SAVE_SECONDS)
            for worker in workers:
                if worker not in ended:
                    worker.process.terminate()
        for worker in workers:
            if time.monotonic() - begin > _BEAT_SECONDS:  # a terminal or disk held this loop up
                worker.heard = time.monotonic()
            limit = SILENCE_SECONDS if worker.trained else START_SECONDS
            if worker not in ended and time.monotonic() - worker.heard > limit:
                worker.note = f"error: nothing was heard of it for {limit:g} s: it hangs"
                worker.kill()
    return ended


def _outcome(ended: Sequence[_Worker], workers: Sequence[_Worker]) -> Outcome:
    trained = any(worker.trained for worker in workers)
    failed = [worker for worker in ended if worker.process.returncode != 0]
    if not failed:
        left = [worker for worker in workers if worker not in ended]
        if not left:
            return Outcome(EXIT_DONE, workers[0].rank, workers[0].log, "", trained)
        late = f"error: it did not end within {SAVE_SECONDS:g} s of SIGTERM"
        return Outcome(-signal.SIGKILL, left[0].rank, left[0].log, late, trained)
    # A worker that only noticed another's end is not the cause, even if it ended first.
    first = min(failed, key=lambda w: (_rank_of_cause(w.process.returncode), failed.index(w)))
    killed = first.process.returncode == -signal.SIGKILL
    # Who was killed from outside could not write why: its last lines would be no reason.
    error = first.note or error_of(first.lines(), last=0 if killed else 12)
    return Outcome(first.process.returncode, first.rank, first.log, error, trained)


def _rank_of_cause(exit_code: int) -> int:
    return {EXIT_BAD_INPUT: 0, EXIT_PEER_FAILED: 2, EXIT_PREEMPTED: 3}.get(exit_code, 1)

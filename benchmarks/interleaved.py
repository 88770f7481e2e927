"""Contenders in separate processes that take turns, so that only one runs at a time.

Between its turns a process is stopped (SIGSTOP), so its prefetching does not slow the others. Its
buffers are equally empty at the beginning and at the end of a turn, since taking a batch is much
faster than making one; a turn is therefore charged for exactly the images that it delivers.
Requires Linux.
"""

import contextlib
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, Pipe
from typing import NamedTuple

_COMMAND = "import sys; from benchmarks import interleaved; interleaved.serve(int(sys.argv[1]))"


class Turn(NamedTuple):
    """Number of images delivered in a turn, and the CPU and wall seconds they took."""

    images: int
    cpu: float
    wall: float


class LeftOut(Exception):
    """The contender cannot run here; the message has the reason."""


class Process:
    """A contender in a separate process, pinned to the first `task.cores` cores."""

    def __init__(self, make, task):
        self._connection, other_end = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        root = str(pathlib.Path(__file__).resolve().parents[1])
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(other_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[other_end.fileno()],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]),
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                },
                # A separate process group, so that its workers stop, continue and end with it. In
                # the caller's session, so that the kernel ends stopped processes with the caller.
                preexec_fn=os.setpgrp,
            )
        self._connection.send((make, task))

    def take(self, batches):
        """Lets the process deliver one batch, then those to be measured; returns the `Turn`."""
        self._signal(signal.SIGCONT)
        self._connection.send(batches)
        turn = self._receive()
        self.stop()
        return turn

    def wait_until_ready(self):
        """Waits for the first batch.

        Raises:
            LeftOut: The contender is not installed.
        """
        self._receive()
        self.stop()

    def stop(self):
        """Stops the process and its workers, and waits until they have stopped."""
        self._signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def close(self):
        """Ends the process and its workers."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        self._errors.close()

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _receive(self):
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.wait()
            self._errors.seek(0)
            output = self._errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"A contender ended unexpectedly. {output}") from error
        if isinstance(message, LeftOut):
            raise message
        return message


def measure(processes, batches, rounds, *, warm_up=0, name=""):
    """Returns {key: [Turn, one per round]}, with the processes in a new order every round.

    Args:
        processes: {key: Process}; all must be ready.
        batches: Number of batches per turn.
        rounds: Number of measured turns per process.
        warm_up: Number of turns before them, which are not measured.
        name: Name printed with the number of each round.
    """
    times = {key: [] for key in processes}
    order = list(processes)
    shuffle = random.Random(0).shuffle
    for round_ in range(-warm_up, rounds):
        shuffle(order)
        for key in order:
            turn = processes[key].take(batches)
            if round_ >= 0:
                times[key].append(turn)
        print(f"{name}: round {round_ + 1} of {rounds}", flush=True)
    return times


def serve(file_descriptor):
    """Runs a contender; this is the main function of its process."""
    connection = Connection(file_descriptor)
    make, task = connection.recv()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
    try:
        batches = make(task)
    except ImportError as error:
        connection.send(LeftOut(str(error)))
        return
    next(batches)
    connection.send(True)
    with contextlib.suppress(EOFError):
        while True:
            wanted = connection.recv()
            # Not measured: refills the caches, which the other processes have used.
            next(batches)
            cpu, wall = cpu_seconds(), time.perf_counter()
            images = sum(next(batches) for _ in range(wanted))
            connection.send(Turn(images, cpu_seconds() - cpu, time.perf_counter() - wall))


def cpu_seconds():
    """Returns the CPU seconds of this process, its threads and its children, ended or not."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    for child in multiprocessing.active_children():
        # Live children are not in RUSAGE_CHILDREN. Fields 14 and 15 of proc(5): clock ticks.
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds

"""Worker processes that share a list of tasks.

Processes are started as fresh interpreters, not by `multiprocessing`: nothing is forked after
TensorFlow is imported, and the caller's `__main__` is not run again, so scripts and notebooks need
no guard. The calling process runs no TensorFlow operation, which leaves its devices and its
distribution strategy free. A worker ends as soon as its pipe to the caller closes, however the
caller died.

A worker notes which item of its task it is working on, in memory that outlives it. So if a decoder
crashes, the caller can name the file, and a task that knows how continues without it.
"""

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any, Protocol, runtime_checkable

from tf_lars import optional_imports
from tf_lars.errors import InputError

_COMMAND = (
    "import sys; from tf_lars.data.prepare import process_pool; "
    "process_pool.serve(int(sys.argv[1]), int(sys.argv[2]))"
)
# Room for the longest path of Linux.
_NOTE_BYTES = 4096
# With more deadly items than this, the fault is not in the items.
_MOST_DEADLY_ITEMS = 20
# Workers decode one image at a time, on the CPU.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}


class WorkerDeath(RuntimeError):
    """The end of a worker process in the middle of a task.

    Attributes:
        exit_code: Its exit code, or minus the number of the signal that ended it.
        item: The item that it was working on, if any; see `working_on`.
    """

    def __init__(self, exit_code: int, item: str, last_words: str):
        place = f", while working on {item}" if item else ""
        super().__init__(
            f"A worker process ended with exit code {exit_code} (-9: killed, often for lack of "
            f"memory){place}. Run again to continue where it stopped. {last_words}"
        )
        self.exit_code = exit_code
        self.item = item


@runtime_checkable
class Separable(Protocol):
    """A task that can be continued without an item on which its worker process died.

    An item is to blame if a new process dies on it, too, before it has done anything else.
    """

    def try_alone(self, item: str) -> None:
        """Does with one item what the task does with it."""

    def without(self, item: str) -> Any:
        """Returns the task without an item that ends its worker."""


def run_tasks(
    function: Callable[[Any, Callable[[int], None]], Any],
    tasks: Sequence[Any],
    num_processes: int,
    held_files: Sequence[int] = (),
) -> Generator[Any, None, None]:
    """Runs `function(task, advance)` for every task in worker processes.

    Yields the units of work that tasks pass to `advance`, integers, and the results of the tasks,
    which must not be integers, as they arrive. A `Separable` task whose worker died on an item
    starts again without it, and the units done until then are yielded once more as a negative
    number.

    Args:
        function: Function at the top level of a module, so that a worker can import it.
        tasks: Arguments of the function, used in this order.
        num_processes: Number of workers, at least 1; at most one per task is started.
        held_files: Open file descriptors that the workers also keep open. A lock among them is held
            until the last worker has ended, even if the caller is killed.

    Raises:
        InputError: A task raised it.
        WorkerDeath: A worker died, and not because of an item that a `Separable` task can do
            without.
        RuntimeError: A task raised another error.
    """
    pending = [_Job(function, task) for task in reversed(tasks)]
    num_deadly = 0
    with contextlib.ExitStack() as stack:
        workers: dict[Any, _Worker] = {}

        def start(job: _Job) -> None:
            worker = stack.enter_context(_Worker(held_files))
            worker.start(job)
            workers[worker.connection] = worker

        for _ in range(min(num_processes, len(tasks))):
            start(pending.pop())
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                job = worker.job
                try:
                    message = worker.receive()
                except WorkerDeath as death:
                    del workers[connection]
                    worker.close()
                    num_deadly += job.death is not None
                    if num_deadly > _MOST_DEADLY_ITEMS:
                        raise
                    yield -job.done
                    start(job.after(death))
                    continue
                if job.death is not None:  # the item does not kill: something else did
                    raise job.death
                yield message
                if isinstance(message, int):
                    job.done += message
                elif pending:
                    worker.start(pending.pop())
                else:
                    del workers[connection]


def working_on(item: str) -> None:
    """Notes the item of its task that this process works on; "" between items.

    Takes a microsecond. Does nothing outside a worker process.
    """
    if _note is not None:
        encoded = os.fsencode(item)[:_NOTE_BYTES]
        _note[: len(encoded) + 1] = encoded + b"\0"


def serve(pipe: int, note: int) -> None:
    """Runs tasks from a pipe until it closes; the main function of a worker process.

    Args:
        pipe: File descriptor of the pipe.
        note: File descriptor of the file for `working_on`.
    """
    global _note
    optional_imports.keep_out(optional_imports.KERAS)  # before a task imports TensorFlow
    _note = mmap.mmap(note, _NOTE_BYTES + 1)
    connection = Connection(pipe)
    # A closed pipe, during or between tasks, means that the caller is gone.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, task = connection.recv()
            try:
                connection.send(function(task, connection.send))
            except BrokenPipeError:
                raise
            except InputError as error:
                connection.send(error)
            except Exception:
                connection.send(RuntimeError(traceback.format_exc()))


_note: mmap.mmap | None = None
"""In a worker process, the memory shared with the caller for `working_on`."""


def _try_alone(task: tuple[Separable, str], advance: Callable[[int], None]) -> None:
    separable, item = task
    working_on(item)
    separable.try_alone(item)
    working_on("")


@dataclass
class _Job:
    """A call for a worker.

    Args:
        function: Function to call.
        task: Its task.
        death: If this is a trial of an item on which a worker died, that death.
        done: Units of work done so far.
    """

    function: Callable[[Any, Callable[[int], None]], Any]
    task: Any
    death: WorkerDeath | None = None
    done: int = 0

    def call(self) -> tuple[Any, Any]:
        """Returns what a worker has to call, and with what."""
        if self.death is None:
            return self.function, self.task
        return _try_alone, (self.task, self.death.item)

    def after(self, death: WorkerDeath) -> "_Job":
        """Returns what to do after the death of its worker: first a trial, then without the item.

        Raises:
            WorkerDeath: It cannot be blamed on an item that the task can do without.
        """
        if not death.item or not isinstance(self.task, Separable):
            raise self.death or death
        if self.death is None:
            return _Job(self.function, self.task, death)
        return _Job(self.function, self.task.without(death.item))


class _Worker:
    """Context manager of a worker process and the pipe to it; leaving it ends the process."""

    def __init__(self, held_files: Sequence[int]):
        self._held_files = held_files

    def __enter__(self) -> "_Worker":
        self.connection, other_end = Pipe()
        self._note: IO[bytes] = tempfile.TemporaryFile()
        self._note.truncate(_NOTE_BYTES + 1)
        # libjpeg prints a line for every damaged image; it is shown only if the worker dies.
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        passed = [other_end.fileno(), self._note.fileno()]
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[*passed, *self._held_files],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": search_path},
                # Ctrl-C reaches only the caller, which then ends its workers.
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; may be called twice."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._errors.close()
        self._note.close()

    def start(self, job: _Job) -> None:
        """Sends a job to the process; `receive` finds out whether it has died."""
        self.job = job
        with contextlib.suppress(OSError):
            self.connection.send(job.call())

    def receive(self) -> Any:
        """Returns what the job passes to `advance`, or its result.

        Raises:
            WorkerDeath: The process has died.
            InputError: The job raised it.
            RuntimeError: The job raised another error.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(message, Exception):
            raise message
        return message

    def _death(self) -> WorkerDeath:
        code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace")[-2000:]
        self._note.seek(0)
        item = os.fsdecode(self._note.read().partition(b"\0")[0])
        return WorkerDeath(code, item, last_words)

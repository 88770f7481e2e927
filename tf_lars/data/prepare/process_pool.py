"""Worker processes that share a list of tasks.

Processes are started as fresh interpreters, not by `multiprocessing`: nothing is forked after
TensorFlow is imported, and the caller's `__main__` is not run again, so scripts and notebooks need
no guard. The calling process runs no TensorFlow operation, which leaves its devices and its
distribution strategy free. A worker ends as soon as its pipe to the caller closes, however the
caller died.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any

from tf_lars.errors import InputError

_COMMAND = (
    "import sys; from tf_lars.data.prepare import process_pool; "
    "process_pool.serve(int(sys.argv[1]))"
)
# Workers decode one image at a time, on the CPU.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}


def run_tasks(
    function: Callable[[Any, Callable[[int], None]], Any],
    tasks: Sequence[Any],
    num_processes: int,
    held_files: Sequence[int] = (),
) -> Generator[Any, None, None]:
    """Runs `function(task, advance)` for every task in worker processes.

    Yields the units of work that tasks pass to `advance`, integers, and the results of the tasks,
    which must not be integers, as they arrive.

    Args:
        function: Function at the top level of a module, so that a worker can import it.
        tasks: Arguments of the function, used in this order.
        num_processes: Number of workers, at least 1; at most one per task is started.
        held_files: Open file descriptors that the workers also keep open. A lock among them is held
            until the last worker has ended, even if the caller is killed.

    Raises:
        InputError: A task raised it.
        RuntimeError: A task raised another error, or a worker died.
    """
    pending = list(reversed(tasks))
    with contextlib.ExitStack() as stack:
        workers: dict[Any, _Worker] = {}
        for _ in range(min(num_processes, len(tasks))):
            worker = stack.enter_context(_Worker(held_files))
            worker.send((function, pending.pop()))
            workers[worker.connection] = worker
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                message = worker.receive()
                yield message
                if isinstance(message, int):
                    continue
                if pending:
                    worker.send((function, pending.pop()))
                else:
                    del workers[connection]


def serve(file_descriptor: int) -> None:
    """Runs tasks from a pipe until it closes; the main function of a worker process."""
    connection = Connection(file_descriptor)
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


class _Worker:
    """Context manager of a worker process and the pipe to it; leaving it ends the process."""

    def __init__(self, held_files: Sequence[int]):
        self._held_files = held_files

    def __enter__(self) -> "_Worker":
        self.connection, other_end = Pipe()
        # libjpeg prints a line for every damaged image; it is shown only if the worker dies.
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(other_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[other_end.fileno(), *self._held_files],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": search_path},
                # Ctrl-C reaches only the caller, which then ends its workers.
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._errors.close()

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Any:
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(message, Exception):
            raise message
        return message

    def _death(self) -> RuntimeError:
        code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace")[-2000:]
        return RuntimeError(
            f"A worker process ended with exit code {code} (-9: killed, often for lack of "
            f"memory). Run again to continue where it stopped. {last_words}"
        )

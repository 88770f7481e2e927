"""The log file of a worker: bounded, appended to by every start, and never the end of a run.

Whatever a worker prints, in lines or without an end of line, costs time in proportion to its
length, and a bounded amount of memory and disk.
"""

import collections
import contextlib
import os
import stat

FILE_BYTES = 64 << 20
"""Size at which `rank-0.log` is renamed to `rank-0.log.1`, whose former content is lost."""
LINE_BYTES = 16 << 10
"""Length from which a line is cut in `WorkerLog.lines`; the file has all of it."""
TAIL_LINES = 200
"""Number of lines that are kept in memory."""
CUT = b" [...]"

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
# Others may be able to write into the folder: not through their link, and no wait for the reader
# of their pipe.
_FLAGS |= os.O_NOFOLLOW | os.O_NONBLOCK


class WorkerLog:
    """Output of a worker in a file, and the last lines of it in memory.

    A file that cannot be written loses output, and nothing else: a full disk must not end the run,
    since there may be space for its checkpoints again later. Only a regular file is written, not
    one behind a symbolic link.

    Args:
      path: Path of the file; `path` + ".1" is the one before it.
      file_bytes: Size from which the file is renamed.
    """

    def __init__(self, path: str, *, file_bytes: int = FILE_BYTES):
        self.path = path
        self._file_bytes = file_bytes
        self._file: int | None = None
        self._size = 0
        self._lines: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)
        self._last = b""  # the line without an end

    def note(self, line: str) -> None:
        """Adds a line of the supervisor's to the file alone."""
        self._append(f"{line}\n".encode())

    def write(self, block: bytes) -> None:
        """Adds output of the worker."""
        first, *rest = block.split(b"\n")
        self._extend(first)
        if rest:
            self._lines.append(self._last)
            self._lines.extend(map(_cut, rest[:-1][-TAIL_LINES:]))
            self._last = b""
            self._extend(rest[-1])
        self._append(block)

    def lines(self) -> list[str]:
        """Returns the last lines, the unfinished one too; long ones are cut."""
        return [line.decode(errors="replace") for line in (*self._lines, self._last)]

    def close(self) -> None:
        """Closes the file; another `write` would open it again."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk may be noticed here
                os.close(self._file)
            self._file = None

    def _extend(self, piece: bytes) -> None:
        if len(self._last) <= LINE_BYTES:  # otherwise it has been cut
            self._last = _cut(self._last + piece[: LINE_BYTES + 1])

    def _append(self, block: bytes) -> None:
        try:
            if self._file is None or self._size >= self._file_bytes:
                self._open()
            assert self._file is not None
            left = memoryview(block)
            while left:
                written = os.write(self._file, left)
                self._size += written
                left = left[written:]
        except OSError:
            self.close()  # the next block tries again

    def _open(self) -> None:
        """Opens the file, after renaming it if it is full.

        Raises:
          OSError: It cannot be opened, or is not a regular file.
        """
        if self._file is not None:
            self.close()
            with contextlib.suppress(OSError):  # then it grows
                os.replace(self.path, f"{self.path}.1")
        file = os.open(self.path, _FLAGS, 0o666)
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            os.close(file)
            raise OSError(f"{self.path} is not a regular file")
        self._file, self._size = file, state.st_size


def _cut(line: bytes) -> bytes:
    return line if len(line) <= LINE_BYTES else line[:LINE_BYTES] + CUT

"""The record of a run: TensorBoard's events, and the same numbers as lines of JSON.

`metrics.jsonl` has one JSON object per line, in the order of their steps or nearly so. All
lines have `step`, the number of steps taken, and `time`, in seconds since 1970. By their other keys
there are four kinds:

| keys | meaning |
|---|---|
| `start`: {name: text} | a process has started at this step; versions, devices, cluster, commit |
| `epoch`, and tags | scalars by their tags in TensorBoard; of validation: with `val_` in front |
| `layers`: {tag: {path: number}} | statistics of each variable after this step |
| `warning`: kind, `message`: text | a finding about the health of the run |

A line of scalars may hold `noise_state`, from which a resumed run continues its averages.

A number that is not finite is `null`. Where a run resumes, what the interrupted process has written
after the step of the checkpoint is dropped, so that each step occurs once.
"""

import atexit
import concurrent.futures
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError

Line = dict[str, Any]
_Written = concurrent.futures.Future[None]

FLUSH_SECONDS = 30.0
"""Longest time for which training waits until metrics are in their files."""

_RUNS = {"train": "", "validation": "val_"}
"""Runs of TensorBoard, and what is put before their tags in a line."""


class MetricLog:
    """Writes the metrics of a run in a thread; training waits for storage in `flush` alone.

    On a full or read-only disk, metrics are lost with one warning, and training continues. `close`
    writes the rest; the interpreter's end does, too.

    Args:
      events: Folder for TensorBoard's runs.
      lines: Path of metrics.jsonl.
    """

    def __init__(self, events: str, lines: str):
        self._events_folder = events
        self._lines_path = lines
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._events: dict[str, _EventFile] = {}
        self._lines: Any = None
        self._row: Line = {}
        self._earlier: list[Line] = []
        self._warned: set[str] = set()

    def begin(self, step: int, environment: Mapping[str, object]) -> None:
        """Opens the files, and drops what was written after a step by a process that was killed.

        Args:
          step: Step from which training starts or resumes.
          environment: What the run is computed with, by name.
        """
        if self._thread is not None:
            return
        self._earlier = self._kept(step)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "metric_log")
        atexit.register(self.close)
        self._submit(self._open, step)
        self.line(step, start={name: str(value) for name, value in environment.items()})

    def earlier(self) -> list[Line]:
        """Returns the lines that were kept from the processes before this one."""
        return self._earlier

    def scalars(
        self, step: float, values: Mapping[str, float], run: str = "train", **more: Any
    ) -> None:
        """Writes scalars.

        Args:
          step: Number of steps taken.
          values: Values by tag.
          run: Run of TensorBoard, "train" or "validation".
          **more: Entries of the line only, such as `epoch`.
        """
        if self._row and self._row["step"] != step:
            self._end_row()
        self._row = self._row or {"step": step, "time": time.time()}
        self._row |= more | {_RUNS[run] + tag: value for tag, value in values.items()}
        self._submit(self._write_scalars, run, step, dict(values), time.time())

    def histogram(self, step: int, tag: str, values: Iterable[float]) -> None:
        """Writes the distribution of some numbers to TensorBoard."""
        self._submit(self._write_histogram, step, tag, list(values), time.time())

    def image(self, step: int, tag: str, draw: Callable[[], tuple[int, int, bytes]]) -> None:
        """Writes a picture to TensorBoard.

        Args:
          step: Number of steps taken.
          tag: Tag of the picture.
          draw: Function that returns its width and height in pixels and the bytes of a PNG file;
            called in the thread of this log.
        """
        self._submit(self._write_image, step, tag, draw, time.time())

    def event(self, run: str, **fields: Any) -> None:
        """Writes an event that is neither a scalar, a histogram nor an image.

        Args:
          run: Run of TensorBoard.
          **fields: Fields of `tensorboard.compat.proto.event_pb2.Event`.
        """
        self._submit(self._write_event, run, time.time(), fields)

    def line(self, step: int, **fields: Any) -> None:
        """Writes a line of JSON that has no counterpart in TensorBoard."""
        self._submit(self._write_line, {"step": step, "time": time.time()} | fields)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Has everything written so far appear in the files, and waits for it.

        So a checkpoint that is saved next never has a step that the files lack, however soon the
        process is killed: a run that resumes from there could not write it again.

        Args:
          seconds: Longest time to wait; after it, a warning is printed, and training continues.
        """
        self._end_row()
        written = self._submit(self._flush)
        if written and not concurrent.futures.wait([written], seconds).done:
            self._warn("are not yet written", f" to {self._lines_path!r} after {seconds:g} s")

    def close(self) -> None:
        """Writes the rest, waits for it, and closes the files."""
        if self._thread is None:
            return
        self._end_row()
        self._submit(self._close)
        self._thread.shutdown(wait=True)
        self._thread = None
        atexit.unregister(self.close)

    def _end_row(self) -> None:
        if self._row:
            row, self._row = self._row, {}
            self._submit(self._write_line, row)

    def _submit(self, write: Callable[..., None], *arguments: Any) -> _Written | None:
        if self._thread is None:
            return None
        try:
            return self._thread.submit(self._or_warning, write, *arguments)
        except RuntimeError:  # the interpreter ends, and has waited for the thread
            self._or_warning(write, *arguments)
            return None

    def _or_warning(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            with files.writing(self._events_folder):
                write(*arguments)
        except Exception as error:  # in a thread, it would vanish
            self._warn("cannot be written", f" ({str(error)[:300]})")

    def _warn(self, what: str, details: str) -> None:
        if what not in self._warned:  # slow storage must not hide that it is full
            self._warned.add(what)
            print(f"warning: metrics {what}{details}; training continues.", flush=True)

    def _kept(self, step: int) -> list[Line]:
        """Returns the lines up to a step, of a file that may be missing or unreadable."""
        try:
            if not files.exists(self._lines_path):
                return []
            return [line for line in read(self._lines_path) if line["step"] <= step]
        except InputError:  # writing to it will fail too, and be told
            return []

    def _open(self, step: int) -> None:
        files.make_folder(os.path.dirname(self._lines_path))
        temporary = files.temporary_path(self._lines_path)
        with files.open_file(temporary, "w") as file:
            file.write("".join(json.dumps(line) + "\n" for line in self._earlier))
        files.rename(temporary, self._lines_path)
        self._lines = files.open_file(self._lines_path, "a")
        for run in _RUNS:
            self._events[run] = _EventFile(os.path.join(self._events_folder, run), step)

    def _write_line(self, line: Line) -> None:
        self._lines.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if not files.is_remote(self._lines_path):  # a remote file is written anew by each flush
            self._lines.flush()

    def _write_scalars(self, run: str, step: int, values: dict[str, float], now: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary()
        for tag, value in values.items():
            # As tf.summary.scalar does, but without an operation of TensorFlow for each.
            summary.value.add(tag=tag, metadata=_scalar_metadata(), tensor=_float_tensor(value))
        self._events[run].write(now, step=step, summary=summary)

    def _write_histogram(self, step: int, tag: str, values: list[float], now: float) -> None:
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        finite = [value for value in values if math.isfinite(value)]
        if finite:
            self._events["train"].write(now, step=step, summary=histogram_pb(tag, finite))

    def _write_image(
        self, step: int, tag: str, draw: Callable[[], tuple[int, int, bytes]], now: float
    ) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.image import metadata
        from tensorboard.util import tensor_util

        width, height, png = draw()
        tensor = tensor_util.make_tensor_proto([str(width).encode(), str(height).encode(), png])
        summary = Summary()
        summary.value.add(
            tag=tag,
            metadata=metadata.create_summary_metadata(None, None, converted_to_tensor=None),
            tensor=tensor,
        )
        self._events["train"].write(now, step=step, summary=summary)

    def _write_event(self, run: str, now: float, fields: dict[str, Any]) -> None:
        self._events[run].write(now, **fields)

    def _flush(self) -> None:
        self._lines.flush()
        for file in self._events.values():
            file.flush()

    def _close(self) -> None:
        self._lines.close()
        for file in self._events.values():
            file.close()


class _EventFile:
    """A file of TensorBoard's events, one of possibly several in the folder of a run."""

    def __init__(self, folder: str, first_step: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        files.make_folder(folder)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = files.open_file(os.path.join(folder, name), "wb")
        self._records = RecordWriter(self._file)
        now = time.time()
        self.write(now, file_version="brain.Event:2")
        # TensorBoard then drops what older files have after this step.
        self.write(now, step=first_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, wall_time: float, **fields: Any) -> None:
        """Writes an event."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=wall_time, **fields).SerializeToString())

    def flush(self) -> None:
        """Has the events appear in the file."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: str) -> list[Line]:
    """Returns the lines of metrics.jsonl.

    A line that is incomplete, as the last one of a process that was killed, is left out.

    Raises:
      InputError: The file cannot be read.
    """
    with files.reading(path), files.open_file(path, "r") as file:
        content = file.read()
    lines = []
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _finite(value: Any) -> Any:
    """Returns a value of JSON with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _scalar_metadata() -> Any:
    from tensorboard.plugins.scalar import metadata

    return metadata.create_summary_metadata(None, None)


def _float_tensor(value: float) -> Any:
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT

    return TensorProto(dtype=DT_FLOAT, float_val=[value])

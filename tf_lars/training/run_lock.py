"""A lock that lets one run at a time write to a folder.

On a file system that locks files, including NFS, the lock is the operating system's: it ends with
the process, however that dies, and NFS frees the locks of a host that has crashed after a minute or
two. Elsewhere (`gs://`, some mounted buckets) the holder keeps changing a file, and one that no
longer changes is considered abandoned.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError

GRACE_SECONDS = 10.0
"""Time given to the last run to end. For an earlier start of the same job, `JOB_SECONDS`."""
JOB_SECONDS = 120.0
BEAT_SECONDS = 10.0
"""Interval at which a holder changes its file where files cannot be locked."""
STALE_SECONDS = 45.0
"""Time after which a file that has not changed is considered abandoned."""
SETTLE_SECONDS = 3.0
"""Time in which two simultaneous starts see each other's file."""

_POLL_SECONDS = 0.5
_READS = 3
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """Lock on a folder, as a hidden file beside it. Not reentrant.

    Args:
      folder: Path of the folder, local or remote; its parent is created if missing.
      job: Name that all starts of one job share; a start waits for an earlier one to end. None if
        jobs are not restarted.
    """

    def __init__(self, folder: str, job: str | None = None):
        self._folder = folder.rstrip("/")
        parent, name = os.path.split(self._folder)
        self._path = os.path.join(parent, f".{name}.lock")
        self._me: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": job,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._has_told = False
        self._file: int | None = None
        self._beating: threading.Event | None = None

    def acquire(self) -> None:
        """Takes the lock, waiting for `GRACE_SECONDS` or `JOB_SECONDS` if another process has it.

        Raises:
          InputError: Another process keeps it, or the file cannot be written.
        """
        files.make_folder(os.path.dirname(self._path) or ".")
        with files.writing(self._path):
            if files.is_remote(self._path) or not self._lock_file():
                self._claim_file()

    def release(self) -> None:
        """Gives the lock up."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None
        if self._beating is not None:
            self._beating.set()
            self._beating = None
            if self._holder().get("id") == self._me["id"]:
                with contextlib.suppress(Exception):  # it expires after `STALE_SECONDS` anyway
                    files.remove(self._path)

    def _lock_file(self) -> bool:
        """Takes the operating system's lock; returns False if the file system has none."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            start = time.monotonic()
            while not _try_lock(file):
                self._wait_for(self._holder(), start)
        except OSError as error:
            os.close(file)
            if error.errno in _CANNOT_LOCK:
                return False
            raise
        except BaseException:
            os.close(file)
            raise
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(self._me).encode(), 0)
        self._file = file
        return True

    def _claim_file(self) -> None:
        """Writes this process into the file, unless another one keeps changing it."""
        start = since = time.monotonic()
        seen = self._holder()
        while seen and not self._is_dead(seen) and time.monotonic() < since + STALE_SECONDS:
            time.sleep(_POLL_SECONDS)
            now = self._holder()
            if now != seen:
                seen, since = now, time.monotonic()
                if now:
                    self._wait_for(now, start)
        self._write(0)
        time.sleep(SETTLE_SECONDS)
        if self._holder().get("id") != self._me["id"]:
            raise self._refusal(self._holder())
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._beating,), daemon=True).start()

    def _beat(self, stop: threading.Event) -> None:
        number = 1
        while not stop.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # storage that fails for a while
                self._write(number)
            number += 1

    def _write(self, beat: int) -> None:
        temporary = files.temporary_path(f"{self._path}.{self._me['id']}")
        with files.open_file(temporary, "w") as file:
            file.write(json.dumps(self._me | {"beat": beat}))
        files.rename(temporary, self._path)

    def _holder(self) -> dict[str, Any]:
        """Returns what the holder has written; empty if there is nothing to read."""
        for _ in range(_READS):
            try:
                holder = files.read_json(self._path)
                return holder if isinstance(holder, dict) else {}
            except Exception:  # missing, damaged, or just being replaced
                time.sleep(_POLL_SECONDS / _READS)
        return {}

    def _wait_for(self, holder: dict[str, Any], start: float) -> None:
        """Waits a little for the holder to end, or raises an InputError if it has had its time."""
        same_job = self._me["job"] is not None and holder.get("job") == self._me["job"]
        limit = JOB_SECONDS if same_job else GRACE_SECONDS
        if time.monotonic() > start + limit:
            raise self._refusal(holder)
        if not self._has_told:
            print(f"waiting up to {limit:g} s for {_name(holder)} to end", flush=True)
            self._has_told = True
        time.sleep(_POLL_SECONDS)

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        """Returns whether the holder was a process of this host that has ended."""
        pid = holder.get("pid")
        if holder.get("host") != self._me["host"] or not isinstance(pid, int):
            return False
        return not os.path.exists(f"/proc/{pid}")

    def _refusal(self, holder: dict[str, Any]) -> InputError:
        return InputError(
            f"Only one run at a time may use a folder. Received: {self._folder!r}, in which "
            f"{_name(holder)} is training. Wait for it, end it, or use another --model_dir; if "
            "that host has crashed, try again in two minutes."
        )


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"

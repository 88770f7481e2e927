"""Disks that are full or cannot be written, even by root.

with faulty_disks.small(tmp_path / "run", megabytes=64) as disk:
    disk.fill()  # writing fails: no space left on device
    disk.free()
    with faulty_disks.read_only(disk.path / "checkpoints"):
        ...  # writing there fails: read-only file system
"""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SECONDS = 30
_FILLER = ".filler"


class Disk:
    """A small file system; made by `small`."""

    def __init__(self, path: Path):
        self.path = path
        """Where it is mounted."""

    def fill(self, leave: int = 0) -> int:
        """Uses all free space except `leave` bytes; returns the number of bytes used.

        Space that others free later stays free. Space is allocated in pages of 4 KiB.
        """
        used = 0
        with open(self.path / _FILLER, "ab", buffering=0) as file:
            for chunk in (1 << 20, 1 << 12):
                while self.available() - leave >= chunk:
                    try:
                        used += file.write(bytes(chunk))
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
        return used

    def free(self) -> None:
        """Frees the space that `fill` has used."""
        (self.path / _FILLER).unlink(missing_ok=True)

    def available(self) -> int:
        """Returns the number of free bytes."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def small(path, megabytes: float):
    """Yields an empty in-memory `Disk`, mounted at a folder, which is created if missing.

    Skips the test if this user may not mount. Processes of `network_hosts` that start later see the
    disk and later mounts on it.
    """
    if reason := unavailable():
        pytest.skip(reason)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k,mode=755"
    with _mounted(path, "-t", "tmpfs", "-o", size, "tf-lars"):
        # `ip netns exec` creates its own view of the mounts; later shared ones still appear in it.
        _mount("--make-shared", path)
        yield Disk(path)


@contextlib.contextmanager
def read_only(folder):
    """Makes a folder and its content read-only for all users, within this context.

    Files that are already open, and programs whose working folder is inside, can still write. Skips
    the test if this user may not mount.
    """
    if reason := unavailable():
        pytest.skip(reason)
    with _empty_folder() as aside, _mounted(aside, "--bind", folder):
        # Private: the mount over the folder below must not appear here as well.
        _mount("--make-private", aside)
        # A bind mount becomes read-only in a second step; its copy is read-only from the start.
        _mount("-o", "remount,bind,ro", aside)
        with _mounted(folder, "--bind", aside):
            yield


def unavailable() -> str | None:
    """Returns why such disks cannot be created here, or None."""
    if not (shutil.which("mount") and shutil.which("umount")):
        return "faulty disks need the programs mount and umount"
    with _empty_folder() as folder:
        try:
            with _mounted(folder, "-t", "tmpfs", "-o", "size=4k", "tf-lars"):
                return None
        except RuntimeError as error:
            return f"disks cannot be mounted here: {error}"


@contextlib.contextmanager
def _empty_folder():
    """Yields a folder that must be empty again at the end; its content is never removed."""
    folder = tempfile.mkdtemp(prefix="tf-lars-mount-")
    try:
        yield folder
    finally:
        os.rmdir(folder)


@contextlib.contextmanager
def _mounted(target, *arguments):
    _mount(*arguments, target)
    try:
        yield
    finally:
        # Lazily: a program that still has a file open there must not keep the mount alive.
        _run("umount", "--lazy", str(target))


def _mount(*arguments):
    _run("mount", *map(str, arguments))


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")

"""The lock of a run's folder: one run at a time, and nothing left behind by a dead one."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from tests.helpers.paths import ROOT
from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.training import run_lock
from tf_lars.training.run_lock import RunLock

_HOLD = """
import sys
from tf_lars.training.run_lock import RunLock
lock = RunLock(sys.argv[1], sys.argv[2] or None)
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    for name, seconds in (
        ("GRACE_SECONDS", 1.0),
        ("BEAT_SECONDS", 0.2),
        ("STALE_SECONDS", 1.5),
        ("SETTLE_SECONDS", 0.1),
        ("_POLL_SECONDS", 0.05),
    ):
        monkeypatch.setattr(run_lock, name, seconds)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock of a folder, for a job."""
    started = []

    def start(job=""):
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(tmp_path / "run"), job],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_by_name_until_the_first_releases(holder, tmp_path):
    process = holder()
    with pytest.raises(InputError, match=f"'{tmp_path / 'run'}', in which process {process.pid} "):
        RunLock(str(tmp_path / "run")).acquire()
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "released\n"
    RunLock(str(tmp_path / "run")).acquire()


def test_a_killed_run_leaves_no_lock_behind(holder, tmp_path):
    process = holder()
    process.kill()
    process.wait()
    lock = RunLock(str(tmp_path / "run"))
    lock.acquire()
    lock.release()
    lock.acquire()


def test_a_restart_waits_for_the_earlier_start_of_its_job(holder, tmp_path, capsys):
    process = holder("job")
    threading.Timer(2.0, process.kill).start()  # later than others wait
    RunLock(str(tmp_path / "run"), "job").acquire()
    told = f"waiting up to 120 s for process {process.pid} on "
    assert capsys.readouterr().out.startswith(told)


@pytest.fixture(params=["no locks", "remote"])
def folder(request, tmp_path, monkeypatch):
    """A folder on a file system without locks."""
    if request.param == "remote":
        return f"ram://{tmp_path}/run"

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    return str(tmp_path / "run")


def test_without_locks_a_holder_that_lives_is_respected(folder):
    one = RunLock(folder)
    one.acquire()
    with pytest.raises(InputError, match=f"process {os.getpid()} on"):
        RunLock(folder).acquire()
    one.release()
    other = RunLock(folder)
    other.acquire()
    other.release()
    assert files.names(os.path.dirname(folder), hidden=True) == []


def test_without_locks_a_holder_that_is_gone_is_replaced(folder):
    gone = {"id": "x", "host": "another", "pid": 1, "job": None, "since": "then", "beat": 3}
    path = os.path.join(os.path.dirname(folder), ".run.lock")
    files.make_folder(os.path.dirname(folder))
    for left in (json.dumps(gone), json.dumps(gone | {"host": os.uname().nodename, "pid": 2**30})):
        with files.open_file(path, "w") as file:
            file.write(left)
        lock = RunLock(folder)
        lock.acquire()
        lock.release()


def test_without_locks_one_of_two_starts_at_once_wins(folder):
    refused = []

    def start(lock):
        try:
            lock.acquire()
        except InputError as error:
            refused.append(str(error))

    locks = [RunLock(folder), RunLock(folder)]
    threads = [threading.Thread(target=start, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    for lock in locks:
        lock.release()


def test_a_damaged_lock_file_is_nobodys(tmp_path):
    (tmp_path / ".run.lock").write_bytes(b"\xff{")
    RunLock(str(tmp_path / "run")).acquire()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be writable"):
        RunLock(str(tmp_path / "file" / "run")).acquire()
    with pytest.raises(InputError, match="file system that TensorFlow supports"):
        RunLock("nowhere://bucket/run").acquire()


def test_ram_is_a_file_system_of_tensorflow():
    assert "ram" in tf.io.gfile.get_registered_schemes()  # or the tests above prove nothing

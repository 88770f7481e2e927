"""The faulty disks on which the launchers' tests write checkpoints."""

import errno
import os

import pytest

from tests.helpers import faulty_disks, network_hosts


def _write(path, count=1):
    path.write_bytes(b"x" * count)


def test_a_full_disk_takes_nothing_until_space_is_freed(tmp_path):
    with faulty_disks.small(tmp_path / "disk", megabytes=2) as disk:
        _write(disk.path / "before", 1 << 20)
        assert 0 < disk.fill() <= 1 << 20
        with pytest.raises(OSError, match="No space left on device") as error:
            _write(disk.path / "during")
        assert error.value.errno == errno.ENOSPC
        disk.free()
        _write(disk.path / "after", 1 << 18)
        assert (disk.path / "before").stat().st_size == 1 << 20


def test_a_disk_can_be_left_with_a_little_space(tmp_path):
    with faulty_disks.small(tmp_path, megabytes=2) as disk:
        disk.fill(leave=1 << 16)
        assert disk.available() == 1 << 16
        with pytest.raises(OSError, match="No space left"):
            _write(disk.path / "more", 1 << 17)


def test_a_read_only_folder_cannot_be_written_and_then_can_again(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    _write(folder / "old")
    with open(folder / "log", "w") as log:
        with faulty_disks.read_only(folder):
            assert (folder / "old").read_bytes() == b"x"
            for change in (lambda: _write(folder / "new"), (folder / "old").unlink):
                with pytest.raises(OSError, match="Read-only file system") as error:
                    change()
                assert error.value.errno == errno.EROFS
            _write(tmp_path / "beside")
            log.write("open files can still be written")
        log.flush()
    _write(folder / "new")
    assert sorted(os.listdir(folder)) == ["log", "new", "old"]


def test_a_folder_of_a_small_disk_can_be_read_only_for_a_host_that_runs_already(tmp_path):
    with (
        network_hosts.connected(1) as hosts,
        faulty_disks.small(tmp_path / "disk", megabytes=1) as disk,
    ):
        folder = disk.path / "checkpoints"
        folder.mkdir()
        script = f"while read name; do touch {folder}/$name 2>&1 || true; echo .; done"
        with hosts.popen(0, ["sh", "-c", script], stdin=-1, stdout=-1, text=True) as shell:

            def touch(name):
                shell.stdin.write(f"{name}\n")
                shell.stdin.flush()
                return list(iter(shell.stdout.readline, ".\n"))

            assert touch("one") == []
            with faulty_disks.read_only(folder):
                assert "Read-only file system" in touch("two")[0]
            assert touch("three") == []
            assert sorted(os.listdir(folder)) == ["one", "three"]
            shell.stdin.close()


def test_mounts_are_gone_afterwards_even_when_a_file_is_open(tmp_path):
    files = []

    def fail():
        with faulty_disks.small(tmp_path / "disk", megabytes=1) as disk:
            files.append(open(disk.path / "file", "w"))  # noqa: SIM115, stays open
            with faulty_disks.read_only(disk.path):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    files[0].close()
    assert os.listdir(tmp_path / "disk") == []
    with open("/proc/self/mountinfo") as mounts:
        assert str(tmp_path) not in mounts.read()

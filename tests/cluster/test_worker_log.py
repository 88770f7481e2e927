"""The log of a worker: what it holds, what it costs, and what cannot harm a run."""

import os
import subprocess
import sys

import pytest

from tf_lars.cluster import supervisor
from tf_lars.cluster.worker_log import CUT, LINE_BYTES, TAIL_LINES, WorkerLog


@pytest.fixture
def log(tmp_path):
    opened = WorkerLog(str(tmp_path / "rank-0.log"))
    yield opened
    opened.close()


def test_the_last_lines_are_kept_however_they_arrive(log):
    for block in (b"a", b"b\nc", b"\n", b"", b"\nd"):
        log.write(block)
    assert log.lines() == ["ab", "c", "", "d"]
    log.write(b"".join(b"%d\n" % i for i in range(2 * TAIL_LINES)))
    assert log.lines() == [str(i) for i in range(TAIL_LINES, 2 * TAIL_LINES)] + [""]


def test_a_long_line_is_cut_in_memory_and_whole_in_the_file(log, tmp_path):
    long = b"error: " + b"x" * (3 * LINE_BYTES)
    for start in range(0, len(long), 1000):
        log.write(long[start : start + 1000])
    log.write(b"\nnext\n")
    assert log.lines() == [(long[:LINE_BYTES] + CUT).decode(), "next", ""]
    assert (tmp_path / "rank-0.log").read_bytes() == long + b"\nnext\n"


def test_a_start_appends_and_keeps_only_its_own_lines(log, tmp_path):
    log.write(b"first\n")
    again = WorkerLog(log.path)
    again.note("--- started")
    again.write(b"second")
    again.close()
    assert again.lines() == ["second"]
    assert (tmp_path / "rank-0.log").read_text() == "first\n--- started\nsecond"


def test_a_full_file_becomes_the_one_before_and_no_more_than_two_are_kept(tmp_path):
    log = WorkerLog(str(tmp_path / "rank-0.log"), file_bytes=1000)
    blocks = [bytes([65 + i]) * 400 for i in range(10)]
    for block in blocks:
        log.write(block)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["rank-0.log", "rank-0.log.1"]
    assert (tmp_path / "rank-0.log.1").read_bytes() == b"".join(blocks[6:9])
    assert (tmp_path / "rank-0.log").read_bytes() == blocks[9]


def test_a_file_that_cannot_be_renamed_grows_and_loses_nothing(tmp_path):
    (tmp_path / "rank-0.log.1" / "in the way").mkdir(parents=True)
    log = WorkerLog(str(tmp_path / "rank-0.log"), file_bytes=10)
    for _ in range(5):
        log.write(b"x" * 10)
    log.close()
    assert (tmp_path / "rank-0.log").read_bytes() == b"x" * 50


def test_nothing_but_a_regular_file_is_written(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "rank-0.log").symlink_to(victim)
    (tmp_path / "rank-1.log").symlink_to(tmp_path / "not yet there")
    os.mkfifo(tmp_path / "rank-2.log")  # which nothing reads: opening it would wait
    (tmp_path / "rank-3.log").mkdir()
    (tmp_path / "rank-4.log").symlink_to("/dev/full")
    says = [sys.executable, "-c", "print('said'); import sys; sys.exit('error: why')"]
    for rank in range(5):
        outcome = supervisor.run([says], [{}], str(tmp_path), first_rank=rank)
        assert (outcome.exit_code, outcome.error) == (1, "error: why")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "not yet there").exists()


def test_a_folder_that_appears_later_gets_the_rest(tmp_path):
    log = WorkerLog(str(tmp_path / "logs" / "rank-0.log"))
    log.write(b"lost\n")
    (tmp_path / "logs").mkdir()
    log.write(b"kept\n")
    log.close()
    assert (tmp_path / "logs" / "rank-0.log").read_text() == "kept\n"
    assert log.lines() == ["lost", "kept", ""]


def test_a_console_on_a_full_disk_does_not_end_the_run(tmp_path):
    source = f"""
import os, sys
from tf_lars.cluster import supervisor
says = [sys.executable, "-c", "print('x' * 100_000)"]
os._exit(10 + supervisor.run([says], [{{}}], {str(tmp_path)!r}).exit_code)
"""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", source], stdout=full, timeout=60)
    assert done.returncode == 10
    assert "x" * 100_000 in (tmp_path / "rank-0.log").read_text()


def test_a_process_that_outlives_a_worker_and_prints_without_end_does_not_hold_the_job(tmp_path):
    prints = "import os\nwhile True: os.write(1, b'x' * 4096)"
    source = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {prints!r}])"
    assert supervisor.run([[sys.executable, "-c", source]], [{}], str(tmp_path)).exit_code == 0


_PRINTS = """
import os
block = {block!r} * ({length} // len({block!r}))
for _ in range({count}):
    os.write(1, block)
"""


_RUNS = """
import resource, sys
from tf_lars.cluster import supervisor
begin = resource.getrusage(resource.RUSAGE_SELF)
outcome = supervisor.run([[sys.executable, "-c", {prints!r}]], [{{}}], {folder!r}, first_rank=0)
end = resource.getrusage(resource.RUSAGE_SELF)
print(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime, file=sys.stderr)
sys.exit(outcome.exit_code)
"""


def _cpu_seconds(folder, line, mebibytes):
    """Returns a supervisor's CPU time while a worker prints so much.

    It is a process alone: in this one, threads of TensorFlow may be at work.
    """
    prints = _PRINTS.format(block=line, length=1 << 16, count=mebibytes * 16)
    source = _RUNS.format(prints=prints, folder=str(folder))
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, done.stderr
    return float(done.stderr.split()[-1])


def test_output_without_an_end_of_line_costs_no_more_than_lines(tmp_path):
    mebibytes, lines, whole = 24, [], []
    for turn in range(3):
        lines.append(_cpu_seconds(tmp_path / f"lines {turn}", b"x" * 79 + b"\n", mebibytes))
        whole.append(_cpu_seconds(tmp_path / f"whole {turn}", b"x" * 80, mebibytes))
    # With a cost that grows as the square of a line's length, the ratio was above 10. What else
    # the machine does can only add.
    assert min(whole) < 2 * min(lines), (lines, whole)
    assert (tmp_path / "whole 0" / "rank-0.log").read_bytes().count(b"x" * 80) > mebibytes * 13_000

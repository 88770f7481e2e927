"""The supervisor of a machine's workers, with real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tf_lars.cluster import supervisor


def _run(tmp_path, *sources, **arguments):
    commands = [[sys.executable, "-c", textwrap.dedent(source)] for source in sources]
    return supervisor.run(commands, [{}] * len(commands), str(tmp_path), **arguments)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


WAIT = "import signal; signal.pause()"


def test_all_well_is_no_failure_and_each_rank_has_a_log(tmp_path, capfdbinary):
    assert _run(tmp_path, "print('zero')", "print('one')").exit_code == 0
    for rank, said in enumerate(("zero", "one")):
        header, *lines = (tmp_path / f"rank-{rank}.log").read_text().splitlines()
        assert header.startswith("--- started")
        assert lines == [said]
    assert capfdbinary.readouterr().out == b"zero\n"


def test_the_others_are_ended_when_one_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pid")
    failure = _run(
        tmp_path,
        f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {WAIT}",
        f"""
        import sys
        pid = open({str(tmp_path / "pid")!r}).read()  # waits until the other worker has written it
        open({str(tmp_path / "seen")!r}, "w").write(pid)
        sys.exit(3)
        """,
    )
    assert (failure.rank, failure.exit_code) == (1, 3)
    assert "worker 1 ended with exit code 3" in str(failure)
    assert not _alive(int((tmp_path / "seen").read_text()))


def test_a_start_adds_to_the_log_and_only_its_own_error_is_told(tmp_path):
    assert _run(tmp_path, "import sys; sys.exit('error: the first')").exit_code == 1
    failure = _run(tmp_path, "import sys; sys.exit('the second')")
    assert failure.error == "the second"
    assert "error: the first" in (tmp_path / "rank-0.log").read_text()


def test_the_cause_is_reported_and_not_who_noticed_first(tmp_path):
    noticed = "import sys; sys.exit(75)"
    cause = "import sys; print('error: bad', file=sys.stderr); sys.exit(2)"
    failure = _run(tmp_path, noticed, noticed, cause)
    assert (failure.rank, failure.exit_code) == (2, 2)
    assert failure.error == "error: bad"


def test_a_killed_worker_is_named_with_its_signal(tmp_path):
    failure = _run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "worker 0 was killed by SIGKILL" in str(failure)


def test_without_an_error_line_the_end_of_the_log_is_shown():
    lines = [f"line {i}" for i in range(40)]
    assert supervisor.error_of(lines, last=2) == "line 38\nline 39"


def test_a_log_that_cannot_be_written_costs_nothing_but_the_log(tmp_path):
    (tmp_path / "file").write_text("")
    failure = supervisor.run(
        [[sys.executable, "-c", "print('x'); import sys; sys.exit('error: why')"]],
        [{}],
        str(tmp_path / "file" / "logs"),
    )
    assert (failure.exit_code, failure.error) == (1, "error: why")


SAVES = """
import signal, sys
def save(*_):
    sys.exit(42)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_a_stop_is_passed_on_and_the_workers_may_save(tmp_path):
    def stop():
        logs = [tmp_path / f"rank-{rank}.log" for rank in (0, 1)]
        return all(log.exists() and "ready" in log.read_text() for log in logs)

    assert _run(tmp_path, SAVES, SAVES, stop=stop).exit_code == 42


def test_a_worker_that_has_trained_says_so(tmp_path):
    trains = "from tf_lars.cluster import supervisor; supervisor.has_trained()"
    assert _run(tmp_path, trains).trained
    assert not _run(tmp_path, "pass").trained


def test_a_worker_that_hangs_is_killed_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "START_SECONDS", 3.0)
    stops = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    failure = _run(tmp_path, stops)
    assert failure.exit_code == -signal.SIGKILL
    assert failure.error == "error: no heartbeat for 3 s: it hangs"


def test_workers_are_pinned_to_their_cores(tmp_path):
    core = sorted(os.sched_getaffinity(0))[0]
    source = f"import os; assert os.sched_getaffinity(0) == {{{core}}}"
    assert _run(tmp_path, source, cpus=[[core]]).exit_code == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("state", ["signal.pause()", "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_workers_end_when_the_supervisor_is_killed(tmp_path, how, state):
    worker = (
        "import os, signal; from tf_lars.cluster import supervisor; "
        f"supervisor.start_heartbeat(); print(os.getpid(), flush=True); {state}"
    )
    source = f"""
        import sys
        from tf_lars.cluster import supervisor
        supervisor.run([[sys.executable, "-c", {worker!r}]] * 2, [{{}}, {{}}], {str(tmp_path)!r})
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True
    )
    pids = [int(process.stdout.readline())]
    log = tmp_path / "rank-1.log"
    deadline = time.monotonic() + 60
    while len(log.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline, "worker 1 has not started"
        time.sleep(0.01)
    pids.append(int(log.read_text().splitlines()[1]))
    process.send_signal(how)
    process.wait(timeout=60)
    for pid in pids:
        # A pidfd becomes readable when its process ends.
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        import select

        assert select.select([fd], [], [], 60)[0], f"worker {pid} is still alive"
        os.close(fd)

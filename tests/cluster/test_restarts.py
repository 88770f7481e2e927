"""The restart policy, and the supervising loop with prescribed outcomes."""

import os
import signal

import pytest

from tf_lars.cluster import restarts
from tf_lars.cluster.supervisor import Outcome


def _outcome(exit_code, trained=True):
    return Outcome(exit_code, 1, "rank-1.log", "error: why", trained)


@pytest.mark.parametrize(
    ("exit_code", "has_trained", "used", "again"),
    [
        (0, True, 0, False),
        (2, True, 0, False),
        (1, True, 0, True),
        (-9, True, 2, True),
        (75, True, 3, False),
        (75, False, 0, False),
        (42, False, 3, True),
    ],
)
def test_the_policy(exit_code, has_trained, used, again):
    outcome = _outcome(exit_code)
    assert again == restarts.may_restart(
        outcome, has_trained=has_trained, restarts=used, max_restarts=3
    )


def test_the_pauses_double_up_to_a_minute():
    assert [restarts.back_off_seconds(n) for n in (1, 2, 3, 10)] == [2, 4, 8, 60]


@pytest.fixture
def stop(monkeypatch):
    """Yields a stop request that never waits; the signal handler is restored after the test."""
    before = signal.getsignal(signal.SIGTERM)
    request = restarts.StopRequest()
    monkeypatch.setattr(request, "wait", lambda seconds: request())
    yield request
    signal.signal(signal.SIGTERM, before)


def _supervise(outcomes, stop, **options):
    starts = []

    def start(number):
        starts.append(number)
        return outcomes[number]

    return restarts.supervise(start, stop=stop, **options), len(starts)


def test_failures_are_counted_and_preemptions_are_not(stop, capsys):
    outcomes = [_outcome(c) for c in (-9, 42, 42, 75, 0)]
    last, starts = _supervise(outcomes, stop, max_restarts=2)
    assert (last.exit_code, starts) == (0, 5)
    told = capsys.readouterr().err
    assert "worker 1 was killed by SIGKILL" in told
    assert "restart 2 of at most 2" in told


def test_the_last_failure_is_what_is_returned(stop):
    last, starts = _supervise([_outcome(1), _outcome(75)], stop, max_restarts=1)
    assert (last.exit_code, starts) == (75, 2)


def test_a_job_that_never_took_a_step_is_not_started_again(stop):
    assert _supervise([_outcome(1, trained=False)], stop)[1] == 1


def test_sigterm_ends_the_job_as_preempted(stop):
    def start(number):
        os.kill(os.getpid(), signal.SIGTERM)
        return _outcome(-signal.SIGTERM)

    assert restarts.supervise(start, stop=stop).exit_code == 42

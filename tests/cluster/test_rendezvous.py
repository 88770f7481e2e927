"""Rendezvous of workers and detection of lost peers, in real processes without TensorFlow."""

import contextlib
import signal
import socket
import subprocess

import pytest

from tests.helpers.rendezvous_processes import SECONDS
from tf_lars.cluster import messages, secret
from tf_lars.cluster.spec import split_address


def _start_all(workers, addresses, *of_rank, **options):
    for rank in range(len(addresses)):
        special = of_rank[rank] if rank < len(of_rank) else {}
        workers.start(rank, addresses, **{**options, **special})


def _joined(workers):
    """Returns the different addresses that all three have agreed upon."""
    ends = workers.ends()
    assert [code for code, _ in ends] == [0, 0, 0]
    joined = {printed.splitlines()[-1] for _, printed in ends}
    assert len(joined) == 1
    fresh = joined.pop().split()[1:]
    assert len(set(fresh)) == 3
    return fresh


def test_all_meet_on_fresh_ports_and_leave_together(workers, addresses):
    _start_all(workers, addresses, facts={"--epochs": "3"})
    fresh = _joined(workers)
    assert not set(fresh) & set(addresses)
    assert not list(workers.folder.glob(".workers-*"))


@pytest.mark.parametrize(
    ("of_rank", "message"),
    [
        (
            [{"facts": {"--epochs": "3"}}, {"facts": {"--epochs": "4"}}],
            "All workers must have the same --epochs. Received: '3' on worker 0",
        ),
        (
            [{"facts": {"program": "a"}}, {"facts": {"program": "a"}}, {"facts": {}}],
            "All workers must have the same program. Received: 'a' on worker 0",
        ),
    ],
)
def test_workers_that_differ_all_end_with_the_same_sentence(workers, addresses, of_rank, message):
    same = of_rank[0]
    _start_all(workers, addresses, *of_rank, **same)
    for code, printed in workers.ends():
        assert code == 2
        assert message in printed


def test_another_number_of_workers_and_a_worker_started_twice_are_refused(workers, addresses):
    workers.start(0, addresses, mismatch=1.0)
    workers.start(1, addresses[:2])
    assert "the same number of workers. Received: 2 from one" in workers.end(1)[1]
    code, printed = workers.end(0)
    assert code == 2
    assert "3 from worker 0" in printed


def test_workers_that_know_only_the_first_learn_the_others_addresses(workers, addresses):
    known = [addresses[0], "", ""]
    _start_all(workers, known)
    assert {address.split(":")[0] for address in _joined(workers)} == {"127.0.0.1"}


def test_a_missing_worker_without_an_address_is_named_by_its_rank(workers, addresses):
    known = [addresses[0], "", ""]
    for rank in (0, 1):
        workers.start(rank, known, timeout=5.0)
    for code, printed in workers.ends():
        assert code == 2
        assert "1 missing (test): worker 2: it has not registered. Start them" in printed


def test_workers_with_and_without_addresses_do_not_mix(workers, addresses):
    workers.start(0, [addresses[0], "", ""], mismatch=1.0)
    workers.start(1, addresses)
    for code, printed in workers.ends():
        assert code == 2
        assert "must know each other's addresses, or none" in printed


def test_a_public_address_is_warned_of(workers, addresses):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("an address for a test needs `unshare --net`, and root")
    script = 'ip link set lo up && ip address add 8.8.4.4/32 dev lo && exec "$@"'
    alone = ["8.8.4.4:2222"]
    workers.start(0, alone, before=["unshare", "--net", "sh", "-c", script, "sh"])
    code, printed = workers.end(0)
    assert code == 0, printed
    assert "warning: 8.8.4.4 is a public address. TensorFlow listens on all interfaces" in printed


def test_a_missing_worker_is_named_when_time_is_up(workers, addresses):
    workers.start(0, addresses, timeout=5.0)
    workers.start(1, addresses, timeout=5.0)
    for code, printed in workers.ends():
        assert code == 2
        assert f"worker 2 ({addresses[2]}): it has not started" in printed


def test_a_worker_that_does_not_return_after_a_restart_is_no_bad_input(workers, addresses):
    for rank in (0, 1):
        workers.start(rank, addresses, timeout=3.0, is_restart=True)
    assert [code for code, _ in workers.ends()] == [75, 75]


def test_a_missing_hub_and_a_name_that_does_not_resolve_are_named(workers, addresses):
    workers.start(1, addresses, timeout=3.0)
    workers.start(1, ["nowhere.invalid:2222", addresses[2]], timeout=3.0)
    code, printed = workers.end(0)
    assert code == 2
    assert f"worker 0 ({addresses[0]}) must be reachable within 3 s" in printed
    code, printed = workers.end(1)
    assert code == 2
    assert "the name nowhere.invalid does not resolve" in printed


def test_an_address_of_another_machine_is_a_wrong_rank(workers, addresses):
    # 198.51.100.0/24 is reserved for documentation (RFC 5737).
    workers.start(1, [addresses[0], "198.51.100.1:2222"])
    code, printed = workers.end(0)
    assert code == 2
    assert "must belong to its own machine" in printed


def test_a_port_that_is_taken_is_named(workers, addresses):
    host, port = addresses[0].split(":")
    with socket.create_server((host, int(port))):
        workers.start(0, addresses)
        code, printed = workers.end(0)
    assert code == 2
    assert f"port must be free. Received: {addresses[0]}" in printed


def test_a_folder_that_is_not_shared_is_refused(workers, addresses):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("hiding a folder from one process needs `unshare --mount`, and root")
    cover = f'mount -t tmpfs tf-lars "{workers.folder}" && exec "$@"'
    workers.start(0, addresses[:2], timeout=8.0)
    workers.start(1, addresses[:2], before=["unshare", "--mount", "sh", "-c", cover, "sh"])
    for code, printed in workers.ends():
        assert code == 2
        assert "must see the same model folder as worker 0" in printed


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"end": "SIGKILL"}, "is gone: its process ended, or its connection broke"),
        ({"end": "SIGSTOP"}, "for 3 s: it hangs, or its network is down"),
        ({"end": "fail"}, "failed: it has had enough"),
    ],
)
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_the_others_end_with_the_name_of_a_lost_worker(workers, addresses, end, message, victim):
    of_rank = [{}, {}, {}]
    of_rank[victim] = end
    _start_all(workers, addresses, *of_rank, end="wait")
    for rank in {0, 1, 2} - {victim}:
        code, printed = workers.end(rank)
        assert code == 75, printed
        assert f"worker {victim} ({addresses[victim]})" in printed
        assert message in printed


def _let_in(connection, folder):
    """Does what worker 0 does until a worker has registered; returns its registration."""
    job, challenge = secret.create(str(folder)), secret.new_challenge()
    connection.send(secret.greeting(job, challenge))
    proof = connection.next(SECONDS)
    theirs = proof["challenge"]
    assert secret.is_answer(proof["answer"], job.key, "worker", challenge, theirs)
    connection.send({"answer": secret.answer(job.key, "server", theirs, challenge)})
    return connection.next(SECONDS)


def test_an_end_that_comes_along_with_the_beginning_is_heard(workers, addresses):
    with (
        socket.create_server(split_address(addresses[0])) as server,
        socket.create_server(("", 0)) as port,
    ):
        server.settimeout(SECONDS)
        workers.start(1, addresses[:2])
        connection = messages.Connection(server.accept()[0])
        hello = _let_in(connection, workers.folder)
        ports = [port.getsockname()[1], hello["hello"]["port"]]
        addresses = [f"127.0.0.1:{one}" for one in ports]
        connection.send({"peers": addresses})
        ready = connection.next(SECONDS)
        assert ready == {"ready": None}
        connection.sock.sendall(
            b'{"go": true}\n{"end": {"exit_code": 75, "reason": "worker 0 failed: that is why"}}\n'
        )
        code, printed = workers.end(0)
    assert code == 75
    assert "worker 0 failed: that is why" in printed


def test_an_impostor_in_place_of_worker_0_is_told_apart(workers, addresses):
    with socket.create_server(split_address(addresses[0])) as server:
        server.settimeout(0.2)
        name = workers.start(1, addresses[:2], timeout=3.0)
        job = secret.create(str(workers.folder))
        while workers.processes[name].poll() is None:
            with contextlib.suppress(OSError):
                connection = messages.Connection(server.accept()[0])
                connection.send(secret.greeting(job, "0" * 64))
                theirs = connection.next(SECONDS)["challenge"]
                connection.send({"answer": secret.answer(b"a guess", "server", theirs, "0" * 64)})
        code, printed = workers.end(0)
    assert code == 2
    assert "does not know the secret of this job" in printed


def test_bad_input_of_one_worker_is_bad_input_for_all(workers, addresses):
    _start_all(workers, addresses, {}, {"end": "fail", "exit_code": 2}, end="wait")
    assert [code for code, _ in workers.ends()] == [2, 2, 2]


def test_a_second_job_at_the_same_addresses_does_not_disturb_the_first(workers, addresses):
    _start_all(workers, addresses, end="wait")
    workers.wait_until_joined()
    intruder = workers.start(1, [addresses[0], "127.0.0.1:1"], timeout=2.0)
    assert workers.end(intruder)[0] == 2
    assert all(workers.processes[name].poll() is None for name in (0, 1, 2))
    workers.processes[2].send_signal(signal.SIGKILL)
    assert workers.end(0)[0] == 75

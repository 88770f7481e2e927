"""Strangers at the rendezvous of a job, who speak its language, in real processes."""

import contextlib
import json
import resource
import select
import socket
import subprocess
import threading
import time

import pytest

from tests.helpers import programs
from tests.helpers.rendezvous_processes import SECONDS
from tf_lars.cluster import messages, secret
from tf_lars.cluster.spec import split_address

MANY = 2000
HELLO = {"rank": 1, "num_workers": 3, "host": "", "port": 1, "facts": {"--epochs": "4"}}
SAID = (
    b"",
    b"\n" * 1000,
    b"GET / HTTP/1.1\r\n\r\n",
    b"[" * 60_000 + b"\n",
    b"\x00\xff" * 100,
    *(
        messages.encoded(message)
        for message in (
            {"hello": HELLO},
            {"hello": {**HELLO, "rank": 2, "num_workers": 4}},
            {"hello": 5},
            {"failed": 2, "reason": "a stranger says so"},
            {"end": {"exit_code": 2, "reason": "a stranger says so"}},
            {"bye": True},
            {"cannot": "a stranger says so\x1b[2J\nerror: all is lost"},
            {"answer": "0" * 64, "challenge": "0" * 64},
            {"answer": 5, "challenge": "0" * 64},
            {"answer": "\u00e9", "challenge": "0" * 64},
        )
    ),
)


class Strangers:
    """Connections to an address: some are kept open in silence, others talk and are closed.

    Args:
      address: Address "host:port".
    """

    def __init__(self, address):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._address = split_address(address)
        self._kept = []

    def connect(self):
        """Returns a connection, once the server listens."""
        return messages.retry(
            lambda: socket.create_connection(self._address, timeout=5), time.monotonic() + SECONDS
        )

    def keep_silent(self, count=MANY):
        """Opens connections and says nothing."""
        self._kept += [self.connect() for _ in range(count)]

    def talk(self, count=MANY):
        """Says something on a new connection each time."""
        for i in range(count):
            with self.connect() as connection, contextlib.suppress(OSError):
                connection.sendall(SAID[i % len(SAID)])

    def end(self):
        """Closes all connections."""
        for connection in self._kept:
            connection.close()


@pytest.fixture
def strangers():
    """Returns a function that makes strangers at an address."""
    made = []

    def at(address):
        made.append(Strangers(address))
        return made[-1]

    yield at
    for one in made:
        one.end()


def test_strangers_cost_a_job_nothing_while_it_gathers_and_while_it_runs(
    workers, addresses, strangers
):
    first = workers.start(0, addresses, end="wait")
    crowd = strangers(addresses[0])
    crowd.keep_silent()
    crowd.talk()
    begin = time.monotonic()
    others = [workers.start(rank, addresses, end="wait") for rank in (1, 2)]
    workers.wait_until_joined(first, *others)
    # Starting Python twice included.
    assert time.monotonic() - begin < 15

    crowd.keep_silent()
    crowd.talk()
    assert all(process.poll() is None for process in workers.processes.values())
    printed = (workers.folder / f"out-{first}").read_text()
    assert "\x1b" not in printed
    assert not [line for line in printed.splitlines() if line.startswith("error")]
    workers.processes[others[0]].kill()
    assert workers.end(first)[0] == 75
    assert "worker 1" in workers.end(first)[1]


def test_a_guest_that_sends_slowly_has_no_more_time_than_others(workers, addresses, strangers):
    workers.start(0, addresses, hello=1.0)
    with strangers(addresses[0]).connect() as slow:
        slow.settimeout(SECONDS)
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while slow.recv(1 << 16):  # at first the greeting; b"" when the server hangs up
                slow.setblocking(False)
                while not select.select([slow], [], [], 0.05)[0]:
                    slow.send(b'{"hello": ')
                slow.setblocking(True)
        assert time.monotonic() - begin < 10
    for rank in (1, 2):
        workers.start(rank, addresses)
    assert [code for code, _ in workers.ends()] == [0, 0, 0]


def test_another_secret_is_refused_with_one_sentence_on_both_sides(workers, addresses):
    workers.start(0, addresses, timeout=8.0, secret="one")
    wrong = workers.start(1, addresses, secret="another")
    none = workers.start(2, addresses)
    code, printed = workers.end(wrong)
    assert code == 2
    assert (
        "error: All workers must have the same secret. Received: another TF_LARS_SECRET" in printed
    )
    code, printed = workers.end(none)
    assert code == 2
    assert "TF_LARS_SECRET set on worker 0, and not here" in printed
    code, printed = workers.end(0)
    assert code == 2
    assert "refused a connection from 127.0.0.1: it does not know the secret" in printed


def test_a_worker_that_talks_without_end_cannot_hold_up_the_end(workers, addresses):
    workers.start(0, addresses[:2], end="wait", secret="known")
    deadline = time.monotonic() + SECONDS
    connection = messages.Connection(
        messages.retry(lambda: messages.connect(addresses[0]), deadline)
    )
    greeting, own = connection.next(SECONDS), secret.new_challenge()
    assert greeting["secret"]
    key = secret.of_greeting(greeting, str(workers.folder), {secret.VARIABLE: "known"})
    answer = secret.answer(key, "worker", greeting["challenge"], own)
    connection.send({"answer": answer, "challenge": own})
    proof = connection.next(SECONDS)
    assert secret.is_answer(proof["answer"], key, "server", own, greeting["challenge"])
    with socket.create_server(("127.0.0.1", 0)) as port:
        hello = {**HELLO, "num_workers": 2, "port": port.getsockname()[1], "facts": {}}
        connection.send({"hello": hello})
        connection.next(SECONDS)
        connection.send({"ready": "must be told why it ends"})
        talking = threading.Event()

        def talk():
            with contextlib.suppress(OSError):
                while not talking.is_set():
                    connection.send({"alive": True})

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        begin = time.monotonic()
        code, printed = workers.end(0)
        talking.set()
        thread.join()
    assert code == 2, printed
    assert "must be told why it ends" in printed
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_strangers_do_not_change_the_weights(finished, short_run, tmp_path, strangers):
    model_dir, _ = finished
    command = programs.command("launch.local", *short_run, f"--model_dir={tmp_path}")
    process = subprocess.Popen(command, cwd=programs.ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + programs.SECONDS
    while not (address := _rendezvous_of(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    crowd = strangers(address)
    crowd.keep_silent(MANY // 2)
    crowd.talk()
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            crowd.keep_silent(MANY // 2)
            crowd.talk()
    assert process.wait(programs.SECONDS) == 0
    weights = [
        json.loads((folder / "results.json").read_text())["weights_sha256"]
        for folder in (model_dir, tmp_path)
    ]
    assert weights[0] == weights[1]


def _rendezvous_of(model_dir):
    """Returns the address of worker 0 of a run, once it has been started."""
    for pid in programs.workers(model_dir).values():
        with contextlib.suppress(OSError, KeyError, ValueError):
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
            return json.loads(variables[b"TF_CONFIG"])["cluster"]["worker"][0]
    return None

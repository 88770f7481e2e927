"""Rendezvous server: admits workers, checks that they agree, monitors heartbeats.

It is a thread of worker 0. Every worker, including worker 0, holds one connection to it
(`tf_lars.cluster.rendezvous`).
"""

import contextlib
import dataclasses
import re
import selectors
import socket
import threading
import time
from collections.abc import Sequence

from tf_lars.cluster import messages
from tf_lars.cluster.admission import Admission, Guest
from tf_lars.cluster.messages import Connection
from tf_lars.cluster.secret import Secret
from tf_lars.cluster.spec import MOST_WORKERS, Cluster, join_address
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, InputError

BEAT_SECONDS = 2.0
"""Interval between heartbeats, in both directions."""
SILENCE_SECONDS = 20.0
"""A worker without a heartbeat for this long counts as lost."""
JOIN_SECONDS = 120.0
"""The same until TensorFlow has joined on all workers.

While TensorFlow waits for its peers, no other thread of the process runs.
"""
PROGRESS_SECONDS = 10.0
"""Interval between messages that name the missing workers."""
MISMATCH_SECONDS = 10.0
"""Time limit for the other workers to register and be told of a mismatch."""
FAREWELL_SECONDS = 3.0
"""Time limit for all workers to read why the job ends."""
CHECK_SECONDS = 120.0
"""Time limit for the checks, counted from the deadline for registration."""
_PROBE_SECONDS = 2.0
_MOST_FACTS = 1000
_HOST = re.compile(r"[\w.:-]{0,253}")


@dataclasses.dataclass(eq=False)
class _Peer:
    """A worker that has registered, by its `hello`, and its connection."""

    connection: Connection
    hello: dict
    is_gone: bool = False
    last_heard: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def rank(self) -> int:
        return self.hello["rank"]


class RendezvousServer(threading.Thread):
    """Thread that admits the workers of a job, then monitors them until all have left.

    Args:
      cluster: Addresses at which the workers meet.
      listener: Socket bound to worker 0's address.
      timeout: Seconds within which all workers must register.
      secret: The job's secret, whose file this thread removes.
      timeout_code: Exit code of all workers if one has not registered in time, or fails a check
        that may succeed later.
    """

    def __init__(
        self,
        cluster: Cluster,
        listener: socket.socket,
        *,
        timeout: float,
        secret: Secret,
        timeout_code: int = EXIT_BAD_INPUT,
    ):
        super().__init__(name="rendezvous server", daemon=True)
        self._cluster = cluster
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._timeout_code = timeout_code
        self._secret = secret
        self._peers: list[_Peer] = []
        self._by_rank: dict[int, _Peer] = {}
        # Ranks of the workers that have not passed the checks, joined TensorFlow, left.
        self._not_ready = set(range(cluster.num_workers))
        self._not_joined = set(self._not_ready)
        self._not_left = set(self._not_ready)
        self._phase = self._admit
        self._progress = time.monotonic() + PROGRESS_SECONDS
        self._problem = ""
        self._mismatch_deadline = float("inf")
        self._selector = selectors.DefaultSelector()
        self._admission = Admission(listener, secret, self._selector)
        self._over = False
        self._next_beat, self._all_joined = 0.0, False

    def run(self) -> None:
        """Serves until the job is over."""
        try:
            while not self._over:
                self._serve()
        except Exception as error:  # otherwise reported as a lost worker
            self._end(EXIT_PEER_FAILED, f"the rendezvous server on worker 0 failed: {error!r}")
        finally:
            self._secret.remove()
            for peer in self._peers:
                peer.connection.close()
            self._admission.end()
            self._selector.close()

    def _serve(self) -> None:
        """Reads messages, drops connections that do not register, and runs the current phase."""
        before = time.monotonic()
        for key, _ in self._selector.select(timeout=min(1.0, BEAT_SECONDS)):
            if isinstance(key.data, _Peer):
                if not key.data.is_gone:
                    self._receive(key.data)
            elif isinstance(key.data, Guest):
                hello = self._admission.hello(key.data)
                if hello is not None:
                    self._register(key.data.connection, hello)
            elif not self._admission.accept():
                self._end(
                    EXIT_BAD_INPUT,
                    "Worker 0 must be able to open a file for each worker. Received: too many "
                    "open files. Raise its limit with ulimit -n.",
                )
            if self._over:
                return
        self._admission.expire()
        if time.monotonic() - before > 2 * BEAT_SECONDS:
            return  # this thread was held up, and may not have read heartbeats that have arrived
        self._phase()

    def _receive(self, peer: _Peer) -> None:
        try:
            received = peer.connection.receive(messages.CONNECT_SECONDS)
        except OSError:
            self._drop(peer)
            if peer.rank in self._not_left and self._phase != self._admit:
                self._end(
                    EXIT_PEER_FAILED,
                    f"{self._name_of(peer)} is gone: its process ended, or its connection broke",
                )
            return
        peer.last_heard = time.monotonic()
        for message in received:
            if "ready" in message:
                self._not_ready.discard(peer.rank)
                if message["ready"]:
                    reason = messages.printable(message["ready"], 1000)
                    self._end(self._timeout_code, f"{self._name_of(peer)} {reason}")
            elif "joined" in message:
                self._not_joined.discard(peer.rank)
            elif "failed" in message:
                bad_input = message["failed"] == EXIT_BAD_INPUT
                reason = messages.printable(message.get("reason"), 1000)
                self._end(
                    EXIT_BAD_INPUT if bad_input else EXIT_PEER_FAILED,
                    f"{self._name_of(peer)} failed: {reason}",
                    lost=[peer],
                )
            elif "bye" in message:
                self._not_left.discard(peer.rank)

    def _register(self, connection: Connection, hello: dict) -> None:
        if not _is_hello(hello):
            self._selector.unregister(connection.sock)
            connection.close()
            return
        connection.limit = messages.LARGEST_MESSAGE
        peer = _Peer(connection, hello)
        self._selector.modify(connection.sock, selectors.EVENT_READ, peer)
        problem = self._problem_with(peer)
        self._peers.append(peer)
        self._by_rank.setdefault(peer.rank, peer)
        if problem and not self._problem:
            self._problem = problem
            self._mismatch_deadline = time.monotonic() + MISMATCH_SECONDS

    def _problem_with(self, peer: _Peer) -> str | None:
        """Returns how a worker that has just registered contradicts the others, or None."""
        hello = peer.hello
        if hello["num_workers"] != self._cluster.num_workers:
            return (
                "All workers must expect the same number of workers. Received: "
                f"{hello['num_workers']} from one that registered as worker {hello['rank']}, "
                f"{self._cluster.num_workers} from worker 0. Give all of them the same list."
            )
        if self._cluster.lacks_addresses and hello["rank"] and not hello["host"]:
            return (
                "All workers must know each other's addresses, or none. Received: "
                f"{self._name_of(peer)} with a list of them, and worker 0 with its own "
                f"({self._cluster.source}). Start all of them alike."
            )
        if peer.rank in self._by_rank:
            return (
                f"Each worker must be started once. Received: two that registered as "
                f"{self._name_of(peer)}. Give each its own task index."
            )
        chief = self._by_rank.get(0)
        for other in self._peers if peer.rank == 0 else [chief] if chief else []:
            problem = self._difference(*sorted((other, peer), key=lambda p: p.rank))
            if problem:
                return problem
        return None

    def _difference(self, one: _Peer, other: _Peer) -> str | None:
        facts = one.hello["facts"], other.hello["facts"]
        for name in sorted({*facts[0], *facts[1]}):
            values = [f.get(name) for f in facts]
            if values[0] != values[1]:
                shown = [messages.printable(repr(value)) for value in values]
                return (
                    f"All workers must have the same {messages.printable(name)}. Received: "
                    f"{shown[0]} on {self._name_of(one)}, {shown[1]} on {self._name_of(other)}. "
                    "Start all of them identically."
                )
        return None

    def _admit(self) -> None:
        """Waits until every worker has registered."""
        now = time.monotonic()
        missing = self._cluster.num_workers - len(self._by_rank)
        if now > self._mismatch_deadline or (self._problem and not missing):
            self._end(EXIT_BAD_INPUT, self._problem)
        elif not missing:
            self._introduce()
        elif now > min(self._deadline, self._progress):
            self._progress = now + PROGRESS_SECONDS
            absent = [r for r in range(self._cluster.num_workers) if r not in self._by_rank]
            refused = "".join(
                f"; a connection from {host} was refused: {reason}"
                for host, reason in self._admission.complaints
            )
            if now > self._deadline:
                causes = [f"{self._cluster.name(r)}: {self._why_absent(r)}" for r in absent[:2]]
                self._end(
                    self._timeout_code,
                    f"All {self._cluster.num_workers} workers must register within "
                    f"{self._timeout:g} s. Received: {missing} missing ({self._cluster.source}): "
                    f"{'; '.join(causes)}{refused}. Start them, correct their addresses, or raise "
                    "startup_timeout.",
                )
                return
            names = ", ".join(self._cluster.name(r) for r in absent[:4])
            more = f" and {missing - 4} more" if missing > 4 else ""
            print(
                f"waiting for {names}{more} ({self._why_absent(absent[0])}{refused}), "
                f"{self._deadline - now:.0f} s left",
                flush=True,
            )

    def _introduce(self) -> None:
        """Tells all workers at which addresses TensorFlow finds the others."""
        hellos = [self._by_rank[rank].hello for rank in range(self._cluster.num_workers)]
        hosts = list(self._cluster.hosts)
        if self._cluster.lacks_addresses:
            hosts += [hello["host"] for hello in hellos[1:]]
        workers = tuple(
            join_address(host, hello["port"]) for host, hello in zip(hosts, hellos, strict=True)
        )
        try:
            known = dataclasses.replace(self._cluster, workers=workers)
        except InputError as error:
            self._end(EXIT_BAD_INPUT, str(error))
            return
        if self._cluster.lacks_addresses:
            self._cluster = known
        self._admission.close_door()
        self._secret.remove()
        self._phase = self._check
        self._send_all({"peers": workers})

    def _check(self) -> None:
        """Waits until every worker has reached all others."""
        if not self._not_ready:
            self._phase = self._monitor
            for peer in self._peers:
                peer.last_heard = time.monotonic()
            self._send_all({"go": True})
            return
        waiting = self._cluster.name(min(self._not_ready))
        if time.monotonic() > self._deadline + CHECK_SECONDS:
            self._end(self._timeout_code, f"{waiting} did not finish its checks")
        elif time.monotonic() > self._progress:
            print(f"waiting for {waiting} to finish its checks", flush=True)
            self._progress = time.monotonic() + PROGRESS_SECONDS

    def _monitor(self) -> None:
        """Sends heartbeats, and ends the job when a worker is silent."""
        now = time.monotonic()
        if not self._not_left:
            self._send_all({"done": True})
            self._over = True
            return
        joined = not self._not_joined
        if now < self._next_beat and joined == self._all_joined:
            return
        self._next_beat, self._all_joined = now + BEAT_SECONDS, joined
        limit = SILENCE_SECONDS if joined else JOIN_SECONDS
        silent = [p for p in self._peers if now - p.last_heard > limit]
        if silent:
            names = ", ".join(self._name_of(p) for p in silent)
            self._end(
                EXIT_PEER_FAILED,
                f"no heartbeat from {names} for {limit:g} s: it hangs, or its network is down",
                lost=silent,
            )
            return
        self._send_all({"alive": True, "joined": joined})

    def _end(self, code: int, reason: str, lost: Sequence[_Peer] = ()) -> None:
        """Ends the job on all workers, and on worker 0, whose process this thread is in, last.

        When that process ends, messages that the other workers have not read yet may be lost.
        """
        end = {"end": {"exit_code": code, "reason": reason}}
        remaining = [peer for peer in self._peers if peer not in lost]
        others = [peer for peer in remaining if peer.rank != 0]
        self._send_to(others, end)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for peer in others:
            with contextlib.suppress(OSError):
                while time.monotonic() < deadline:  # until the connection is closed
                    peer.connection.receive(max(0.01, deadline - time.monotonic()))
        self._send_to([peer for peer in remaining if peer.rank == 0], end)
        self._over = True

    def _send_all(self, message: dict) -> None:
        # Worker 0 last: its reaction may end or stop its process, and this thread with it.
        self._send_to(sorted(self._peers, key=lambda peer: peer.rank == 0), message)

    def _send_to(self, peers: Sequence[_Peer], message: dict) -> None:
        text = messages.encoded(message)
        for peer in peers:
            with contextlib.suppress(OSError):  # a lost peer is detected elsewhere
                peer.connection.send_line(text)

    def _name_of(self, peer: _Peer) -> str:
        return self._cluster.name(peer.rank)

    def _why_absent(self, rank: int) -> str:
        """Returns why a worker may not have registered."""
        if rank and self._cluster.lacks_addresses:
            return "it has not registered"
        try:
            messages.connect(self._cluster.workers[rank], _PROBE_SECONDS).close()
        except OSError as error:
            return str(error)
        return "it listens, but has not registered"

    def _drop(self, peer: _Peer) -> None:
        peer.is_gone = True
        self._selector.unregister(peer.connection.sock)
        peer.connection.close()
        self._peers.remove(peer)
        if self._by_rank.get(peer.rank) is peer:
            del self._by_rank[peer.rank]


def _is_hello(hello: dict) -> bool:
    """Returns whether this is the registration of a worker, of any job."""
    facts, host = hello.get("facts"), hello.get("host")
    return (
        all(type(hello.get(name)) is int for name in ("rank", "num_workers", "port"))
        and 0 <= hello["rank"] < hello["num_workers"] <= MOST_WORKERS
        and 0 < hello["port"] < 1 << 16
        and isinstance(host, str)
        and _HOST.fullmatch(host) is not None
        and isinstance(facts, dict)
        and len(facts) <= _MOST_FACTS
        and all(isinstance(value, str) for value in facts.values())
    )

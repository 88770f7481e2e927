"""Rendezvous server: admits workers, checks that they agree, monitors heartbeats.

It is a thread of worker 0. Every worker, including worker 0, holds one connection to it
(`tf_lars.cluster.rendezvous`).
"""

import contextlib
import dataclasses
import errno
import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Sequence

from tf_lars.cluster import messages
from tf_lars.cluster.messages import Connection
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED

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
_HELLO_SECONDS = 60.0


@dataclasses.dataclass(eq=False)
class _Peer:
    """A connection and the state of the worker at its other end; `hello` is its registration."""

    connection: Connection
    hello: dict = dataclasses.field(default_factory=dict)
    is_ready: bool = False
    has_joined: bool = False
    has_left: bool = False
    last_heard: float = dataclasses.field(default_factory=time.monotonic)


class RendezvousServer(threading.Thread):
    """Thread that admits the workers of a job, then monitors them until all have left.

    Args:
      cluster: Addresses at which the workers meet.
      listener: Socket bound to worker 0's address.
      timeout: Seconds within which all workers must register.
      shared_folder: Folder that all workers must see; None for no check.
      timeout_code: Exit code of all workers if one has not registered in time, or fails a check
        that may succeed later.
    """

    def __init__(
        self,
        cluster: Cluster,
        listener: socket.socket,
        *,
        timeout: float,
        shared_folder: str | None,
        timeout_code: int = EXIT_BAD_INPUT,
    ):
        super().__init__(name="rendezvous server", daemon=True)
        self._cluster = cluster
        self._listener = listener
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._timeout_code = timeout_code
        token = f".workers-{uuid.uuid4().hex}"
        self._token = os.path.join(shared_folder, token) if shared_folder else None
        self._peers: list[_Peer] = []
        self._phase = self._admit
        self._progress = time.monotonic() + PROGRESS_SECONDS
        self._problem = ""
        self._mismatch_deadline = float("inf")
        self._selector = selectors.DefaultSelector()
        self._over = False
        self._next_beat, self._all_joined = 0.0, False

    def run(self) -> None:
        """Serves until the job is over."""
        self._listener.listen(max(16, self._cluster.num_workers))
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while not self._over:
                self._serve()
        except Exception as error:  # otherwise reported as a lost worker
            self._end(EXIT_PEER_FAILED, f"the rendezvous server on worker 0 failed: {error!r}")
        finally:
            self._remove_token()
            for peer in self._peers:
                peer.connection.close()
            self._selector.close()
            self._listener.close()

    def _serve(self) -> None:
        """Reads messages, drops connections that do not register, and runs the current phase."""
        before = time.monotonic()
        ready = self._selector.select(timeout=min(1.0, BEAT_SECONDS))
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif key.data in self._peers:
                self._receive(key.data)
            if self._over:
                return
        now = time.monotonic()
        for peer in [p for p in self._peers if not p.hello and now - p.last_heard > _HELLO_SECONDS]:
            self._drop(peer)
        if now - before > 2 * BEAT_SECONDS:
            return  # this thread was held up, and may not have read heartbeats that have arrived
        self._phase()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._end(
                    EXIT_BAD_INPUT,
                    "Worker 0 must be able to open a file for each worker. Received: "
                    f"{error.strerror}. Raise its limit with ulimit -n.",
                )
            return
        peer = _Peer(Connection(sock))
        self._peers.append(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _receive(self, peer: _Peer) -> None:
        try:
            received = peer.connection.receive(messages.CONNECT_SECONDS)
        except OSError:
            self._drop(peer)
            if peer.hello and not peer.has_left and self._phase != self._admit:
                self._end(
                    EXIT_PEER_FAILED,
                    f"{self._name_of(peer)} is gone: its process ended, or its connection broke",
                )
            return
        peer.last_heard = time.monotonic()
        for message in received:
            if not peer.hello:
                self._register(peer, message.get("hello"))
                if not peer.hello:
                    return
            elif "ready" in message:
                peer.is_ready = True
                if message["ready"]:
                    self._end(self._timeout_code, f"{self._name_of(peer)} {message['ready']}")
            elif "joined" in message:
                peer.has_joined = True
            elif "failed" in message:
                bad_input = message["failed"] == EXIT_BAD_INPUT
                self._end(
                    EXIT_BAD_INPUT if bad_input else EXIT_PEER_FAILED,
                    f"{self._name_of(peer)} failed: {message.get('reason')}",
                    lost=[peer],
                )
            elif "bye" in message:
                peer.has_left = True

    def _register(self, peer: _Peer, hello: object) -> None:
        # Another program; or a worker of another job or of this job's next start, which retries.
        if not _is_hello(hello) or self._phase != self._admit:
            self._drop(peer)
            return
        assert isinstance(hello, dict)
        peer.hello = hello
        problem = self._problem_with(peer)
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
        others = [p for p in self._registered() if p is not peer]
        if any(p.hello["rank"] == hello["rank"] for p in others):
            return (
                f"Each worker must be started once. Received: two that registered as "
                f"{self._name_of(peer)}. Give each its own task index."
            )
        chief = next((p for p in self._registered() if p.hello["rank"] == 0), None)
        for other in others if peer is chief else [chief] if chief else []:
            problem = self._difference(*sorted((other, peer), key=lambda p: p.hello["rank"]))
            if problem:
                return problem
        return None

    def _difference(self, one: _Peer, other: _Peer) -> str | None:
        facts = one.hello["facts"], other.hello["facts"]
        for name in sorted({*facts[0], *facts[1]}):
            values = [f.get(name) for f in facts]
            if values[0] != values[1]:
                return (
                    f"All workers must have the same {name}. Received: {values[0]!r} on "
                    f"{self._name_of(one)}, {values[1]!r} on {self._name_of(other)}. Start all of "
                    "them identically."
                )
        return None

    def _admit(self) -> None:
        """Waits until every worker has registered."""
        now = time.monotonic()
        missing = sorted(
            set(range(self._cluster.num_workers)) - {p.hello["rank"] for p in self._registered()}
        )
        if now > self._mismatch_deadline or (self._problem and not missing):
            self._end(EXIT_BAD_INPUT, self._problem)
        elif not missing:
            try:
                if self._token:
                    with open(self._token, "w", encoding="utf-8"):
                        pass
            except OSError as error:
                reason = f"The model folder must be writable. Received: {error}."
                self._end(self._timeout_code, reason)
                return
            by_rank = {p.hello["rank"]: p.hello["port"] for p in self._registered()}
            ports = [by_rank[rank] for rank in range(self._cluster.num_workers)]
            self._phase = self._check
            self._send_all({"peers": ports, "token": self._token})
        elif now > self._deadline:
            causes = [f"{self._cluster.name(r)}: {self._why_absent(r)}" for r in missing[:2]]
            self._end(
                self._timeout_code,
                f"All {self._cluster.num_workers} workers must register within "
                f"{self._timeout:g} s. Received: {len(missing)} missing ({self._cluster.source}): "
                f"{'; '.join(causes)}. Start them, correct their addresses, or raise "
                "--startup_timeout.",
            )
        elif now > self._progress:
            names = ", ".join(self._cluster.name(r) for r in missing[:4])
            more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
            print(
                f"waiting for {names}{more} ({self._why_absent(missing[0])}), "
                f"{self._deadline - now:.0f} s left",
                flush=True,
            )
            self._progress = time.monotonic() + PROGRESS_SECONDS

    def _check(self) -> None:
        """Waits until every worker has reached all others and seen the shared folder."""
        waiting = [p for p in self._registered() if not p.is_ready]
        if not waiting:
            self._remove_token()
            self._phase = self._monitor
            for peer in self._peers:
                peer.last_heard = time.monotonic()
            self._send_all({"go": True})
        elif time.monotonic() > self._deadline + CHECK_SECONDS:
            self._end(self._timeout_code, f"{self._name_of(waiting[0])} did not finish its checks")
        elif time.monotonic() > self._progress:
            print(f"waiting for {self._name_of(waiting[0])} to finish its checks", flush=True)
            self._progress = time.monotonic() + PROGRESS_SECONDS

    def _monitor(self) -> None:
        """Sends heartbeats, and ends the job when a worker is silent."""
        now = time.monotonic()
        if all(p.has_left for p in self._registered()):
            self._send_all({"done": True})
            self._over = True
            return
        joined = all(p.has_joined for p in self._registered())
        if now < self._next_beat and joined == self._all_joined:
            return
        self._next_beat, self._all_joined = now + BEAT_SECONDS, joined
        limit = SILENCE_SECONDS if joined else JOIN_SECONDS
        silent = [p for p in self._registered() if now - p.last_heard > limit]
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
        remaining = [peer for peer in self._registered() if peer not in lost]
        others = [peer for peer in remaining if peer.hello["rank"] != 0]
        for peer in others:
            self._send(peer, end)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for peer in others:
            with contextlib.suppress(OSError):
                while True:  # until the connection is closed
                    peer.connection.receive(max(0.01, deadline - time.monotonic()))
        for peer in remaining:
            if peer not in others:
                self._send(peer, end)
        self._over = True

    def _send_all(self, message: dict) -> None:
        # Worker 0 last: its reaction may end or stop its process, and this thread with it.
        for peer in sorted(self._registered(), key=lambda peer: peer.hello["rank"] == 0):
            self._send(peer, message)

    def _send(self, peer: _Peer, message: dict) -> None:
        # A lost peer is detected elsewhere.
        with contextlib.suppress(OSError):
            peer.connection.send(message)

    def _registered(self) -> list[_Peer]:
        return [p for p in self._peers if p.hello]

    def _name_of(self, peer: _Peer) -> str:
        rank = peer.hello["rank"]
        # A worker that expects a larger job may have a rank that is not in this one.
        return self._cluster.name(rank) if rank < self._cluster.num_workers else f"worker {rank}"

    def _why_absent(self, rank: int) -> str:
        """Returns why a worker may not have registered."""
        try:
            messages.connect(self._cluster.workers[rank]).close()
        except OSError as error:
            return str(error)
        return "it listens, but has not registered"

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._selector.unregister(peer.connection.sock)
            peer.connection.close()
            self._peers.remove(peer)

    def _remove_token(self) -> None:
        if self._token:
            with contextlib.suppress(OSError):
                os.remove(self._token)


def _is_hello(hello: object) -> bool:
    """Returns whether this is the registration of a worker, of any job."""
    return (
        isinstance(hello, dict)
        and all(isinstance(hello.get(name), int) for name in ("rank", "num_workers", "port"))
        and 0 <= hello["rank"] < hello["num_workers"]
        and isinstance(hello.get("facts"), dict)
    )

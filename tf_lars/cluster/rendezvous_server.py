"""The hub of a job: worker 0's thread that gathers the workers, compares them, and hears of each.

Every worker, worker 0 too, holds one connection to it (`tf_lars.cluster.rendezvous`).
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
"""How often each worker and the hub tell each other that they live."""
SILENCE_SECONDS = 20.0
"""After this long without a word, a worker counts as lost."""
JOIN_SECONDS = 120.0
"""The same until TensorFlow has joined everywhere.

While it waits for its peers there, no other thread of the process runs.
"""
PROGRESS_SECONDS = 10.0
"""How often the hub says for whom it waits."""
MISMATCH_SECONDS = 10.0
"""How long the hub waits for the other workers, to tell all of them of a mismatch."""
FAREWELL_SECONDS = 3.0
"""How long the hub waits, at the end, until all have read why."""
CHECK_SECONDS = 120.0
"""How long the checks may take when the last worker has come in the last moment."""
_SILENT_JOIN = 60.0


@dataclasses.dataclass(eq=False)
class _Peer:
    """A connection, and what is known of the worker at its other end."""

    connection: Connection
    hello: dict = dataclasses.field(default_factory=dict)
    is_ready: bool = False
    has_joined: bool = False
    said_bye: bool = False
    heard: float = dataclasses.field(default_factory=time.monotonic)


class RendezvousServer(threading.Thread):
    """Gathers the workers of a job, then watches over them until all have said goodbye.

    Args:
      cluster: with the addresses at which the workers meet.
      listener: bound to worker 0's address.
      timeout: seconds until all must have come and passed their checks.
      shared_folder: which all workers must see.
      timeout_code: exit code for all when somebody has not come by then, or a check fails that
        may succeed later.
    """

    def __init__(
        self,
        cluster: Cluster,
        listener: socket.socket,
        *,
        timeout: float,
        shared_folder: str,
        timeout_code: int = EXIT_BAD_INPUT,
    ):
        super().__init__(name="hub", daemon=True)
        self._cluster = cluster
        self._listener = listener
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._timeout_code = timeout_code
        self._token = os.path.join(shared_folder, f".workers-{uuid.uuid4().hex}")
        self._peers: list[_Peer] = []
        self._phase = self._gather
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
        except Exception as error:  # a hub that is gone would be taken for a lost worker
            self._end(EXIT_PEER_FAILED, f"the hub on worker 0 failed: {error!r}")
        finally:
            self._forget_token()
            for peer in self._peers:
                peer.connection.close()
            self._selector.close()
            self._listener.close()

    def _serve(self) -> None:
        """Hears what has come, drops who says nothing, and goes on with the phase."""
        before = time.monotonic()
        ready = self._selector.select(timeout=min(1.0, BEAT_SECONDS))
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif key.data in self._peers:
                self._hear(key.data)
            if self._over:
                return
        now = time.monotonic()
        for peer in [p for p in self._peers if not p.hello and now - p.heard > _SILENT_JOIN]:
            self._drop(peer)
        if now - before > 2 * BEAT_SECONDS:
            return  # this thread was held up, and may not have heard who has spoken
        self._phase()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._end(EXIT_BAD_INPUT, "worker 0 must be allowed more open files: ulimit -n")
            return
        peer = _Peer(Connection(sock))
        self._peers.append(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _hear(self, peer: _Peer) -> None:
        try:
            received = peer.connection.receive(messages.CONNECT_SECONDS)
        except OSError:
            self._drop(peer)
            if peer.hello and not peer.said_bye and self._phase != self._gather:
                self._end(
                    EXIT_PEER_FAILED,
                    f"{self._called(peer)} is gone: its process ended, or its connection broke",
                )
            return
        peer.heard = time.monotonic()
        for message in received:
            if not peer.hello:
                self._greet(peer, message.get("hello"))
                if not peer.hello:
                    return
            elif "ready" in message:
                peer.is_ready = True
                if message["ready"]:
                    self._end(self._timeout_code, f"{self._called(peer)} {message['ready']}")
            elif "joined" in message:
                peer.has_joined = True
            elif "failed" in message:
                bad_input = message["failed"] == EXIT_BAD_INPUT
                self._end(
                    EXIT_BAD_INPUT if bad_input else EXIT_PEER_FAILED,
                    f"{self._called(peer)} failed: {message.get('reason')}",
                    lost=[peer],
                )
            elif "bye" in message:
                peer.said_bye = True

    def _greet(self, peer: _Peer, hello: object) -> None:
        # Somebody else's program; a worker of another job, or of this one's next start: try later.
        if not _is_hello(hello) or self._phase != self._gather:
            self._drop(peer)
            return
        assert isinstance(hello, dict)
        peer.hello = hello
        problem = self._problem_with(peer)
        if problem and not self._problem:
            self._problem = problem
            self._mismatch_deadline = time.monotonic() + MISMATCH_SECONDS

    def _problem_with(self, peer: _Peer) -> str | None:
        """Returns what is wrong with a worker that has just said hello."""
        hello = peer.hello
        if hello["num_workers"] != self._cluster.num_workers:
            return (
                "All workers must know of the same number of workers. Received: "
                f"{hello['num_workers']} from one that calls itself worker {hello['rank']}, "
                f"{self._cluster.num_workers} from worker 0. Give all the same list."
            )
        others = [p for p in self._met() if p is not peer]
        if any(p.hello["rank"] == hello["rank"] for p in others):
            return (
                f"Each worker must be started once. Received: two that call themselves "
                f"{self._called(peer)}. Give each a task index of its own."
            )
        chief = next((p for p in self._met() if p.hello["rank"] == 0), None)
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
                    f"{self._called(one)}, {values[1]!r} on {self._called(other)}. Start all alike."
                )
        return None

    def _gather(self) -> None:
        """Waits until every worker has said hello."""
        now = time.monotonic()
        for peer in [p for p in self._peers if not p.hello]:
            if now - peer.heard > _SILENT_JOIN:
                self._drop(peer)
        missing = sorted(
            set(range(self._cluster.num_workers)) - {p.hello["rank"] for p in self._met()}
        )
        if now > self._mismatch_deadline or (self._problem and not missing):
            self._end(EXIT_BAD_INPUT, self._problem)
        elif not missing:
            try:
                with open(self._token, "w"):
                    pass
            except OSError as error:
                reason = f"The model folder must be writable. Received: {error}."
                self._end(self._timeout_code, reason)
                return
            by_rank = {p.hello["rank"]: p.hello["port"] for p in self._met()}
            ports = [by_rank[rank] for rank in range(self._cluster.num_workers)]
            self._phase = self._check
            self._tell_all({"peers": ports, "token": self._token})
        elif now > self._deadline:
            whys = "; ".join(f"{self._cluster.name(r)}: {self._why(r)}" for r in missing[:2])
            self._end(
                self._timeout_code,
                f"All {self._cluster.num_workers} workers must come within {self._timeout:g} s. "
                f"Received: no word from {len(missing)} of them ({self._cluster.source}): {whys}. "
                "Start them, correct their addresses, or raise --startup_timeout.",
            )
        elif now > self._progress:
            names = ", ".join(self._cluster.name(r) for r in missing[:4])
            more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
            print(
                f"waiting for {names}{more} ({self._why(missing[0])}), "
                f"{self._deadline - now:.0f} s left",
                flush=True,
            )
            self._progress = time.monotonic() + PROGRESS_SECONDS

    def _check(self) -> None:
        """Waits until every worker has reached all others and seen the shared folder."""
        waiting = [p for p in self._met() if not p.is_ready]
        if not waiting:
            self._forget_token()
            self._phase = self._watch
            for peer in self._peers:
                peer.heard = time.monotonic()
            self._tell_all({"go": True})
        elif time.monotonic() > self._deadline + CHECK_SECONDS:
            self._end(self._timeout_code, f"{self._called(waiting[0])} did not finish its checks")
        elif time.monotonic() > self._progress:
            print(f"waiting for the checks of {self._called(waiting[0])}", flush=True)
            self._progress = time.monotonic() + PROGRESS_SECONDS

    def _watch(self) -> None:
        """Tells all that the hub lives, and ends the job when a worker is silent."""
        now = time.monotonic()
        if all(p.said_bye for p in self._met()):
            self._tell_all({"done": True})
            self._over = True
            return
        joined = all(p.has_joined for p in self._met())
        if now < self._next_beat and joined == self._all_joined:
            return
        self._next_beat, self._all_joined = now + BEAT_SECONDS, joined
        limit = SILENCE_SECONDS if joined else JOIN_SECONDS
        silent = [p for p in self._met() if now - p.heard > limit]
        if silent:
            names = ", ".join(self._called(p) for p in silent)
            self._end(
                EXIT_PEER_FAILED,
                f"nothing was heard of {names} for {limit:g} s: it hangs, or its network is down",
                lost=silent,
            )
            return
        self._tell_all({"alive": True, "joined": joined})

    def _end(self, code: int, reason: str, lost: Sequence[_Peer] = ()) -> None:
        """Ends the job on all workers; worker 0, in whose process this runs, comes last.

        When it has ended, what the others have not read yet may be lost.
        """
        end = {"end": {"exit_code": code, "reason": reason}}
        told = [peer for peer in self._met() if peer not in lost]
        others = [peer for peer in told if peer.hello["rank"] != 0]
        for peer in others:
            self._tell(peer, end)
        deadline = time.monotonic() + FAREWELL_SECONDS
        for peer in others:
            with contextlib.suppress(OSError):
                while True:  # until the connection is closed
                    peer.connection.receive(max(0.01, deadline - time.monotonic()))
        for peer in told:
            if peer not in others:
                self._tell(peer, end)
        self._over = True

    def _tell_all(self, message: dict) -> None:
        # Worker 0 last: what it does then might end, or stop, its process and this thread with it.
        for peer in sorted(self._met(), key=lambda peer: peer.hello["rank"] == 0):
            self._tell(peer, message)

    def _tell(self, peer: _Peer, message: dict) -> None:
        # Its silence, or the end of its connection, is noticed elsewhere.
        with contextlib.suppress(OSError):
            peer.connection.send(message)

    def _met(self) -> list[_Peer]:
        return [p for p in self._peers if p.hello]

    def _called(self, peer: _Peer) -> str:
        rank = peer.hello["rank"]
        # One that believes in a larger job may have a rank that this one has not.
        return self._cluster.name(rank) if rank < self._cluster.num_workers else f"worker {rank}"

    def _why(self, rank: int) -> str:
        """Returns why a worker may not have come."""
        try:
            messages.connect(self._cluster.workers[rank]).close()
        except OSError as error:
            return str(error)
        return "it listens, but has not said hello"

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._selector.unregister(peer.connection.sock)
            peer.connection.close()
            self._peers.remove(peer)

    def _forget_token(self) -> None:
        with contextlib.suppress(OSError):
            os.remove(self._token)


def _is_hello(hello: object) -> bool:
    """Returns whether this is what a worker of any job says first."""
    return (
        isinstance(hello, dict)
        and all(isinstance(hello.get(name), int) for name in ("rank", "num_workers", "port"))
        and 0 <= hello["rank"] < hello["num_workers"]
        and isinstance(hello.get("facts"), dict)
    )

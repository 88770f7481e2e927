"""A worker's place in its job: it meets the others before TensorFlow joins, and hears of their end.

TensorFlow hangs without a word when a host's name does not resolve, and names nobody when a peer
is lost. So the workers first meet at the addresses of the `Cluster`, worker 0 as the hub: all must
come within the time limit, with the same settings, program and data, and every worker must reach
every other on the port that TensorFlow will use there, which is a fresh one at each start. The
connections to the hub then stay, and both sides tell each other every two seconds that they live.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping

from tf_lars.cluster import messages, rendezvous_server
from tf_lars.cluster.messages import Connection
from tf_lars.cluster.spec import Cluster, join_address, split_address
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, InputError, PeerFailure

STARTUP_SECONDS = 300.0
"""Default time limit for all workers to come."""
TAKEN_SECONDS = 10.0
"""How long a worker that starts again waits for its predecessor's port."""
REACH_SECONDS = 30.0
"""How long a worker tries to reach the others' ports."""
FOLDER_SECONDS = 60.0
"""How long a network file system may take to show a file that another host has made."""
_LEAVE_SECONDS = 120.0


class Membership:
    """One worker's membership in a job of several.

    Args:
      cluster: with the addresses at which the workers meet.
      facts: what must be the same on all workers, by a name for messages.
      timeout: seconds until all must have come.
      shared_folder: an existing folder that all workers must see.
      is_restart: a job that once ran waits for a worker that may never return; then the exit code
        is that of a failed peer, and not of bad input.

    Raises:
      InputError: this worker's address is not one of this machine, or its port is taken; or what
        the workers have found out about each other, the same on all of them.
      PeerFailure: a worker was lost meanwhile.
    """

    def __init__(
        self,
        cluster: Cluster,
        facts: Mapping[str, str],
        *,
        timeout: float = STARTUP_SECONDS,
        shared_folder: str,
        is_restart: bool = False,
    ):
        self._cluster = cluster
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._timeout_code = EXIT_PEER_FAILED if is_restart else EXIT_BAD_INPUT
        self._left = threading.Event()
        self._leaving = False
        self._hub_thread: rendezvous_server.RendezvousServer | None = None
        ip, listener = self._own_listener()
        if cluster.is_chief:
            self._hub_thread = rendezvous_server.RendezvousServer(
                cluster,
                listener,
                timeout=timeout,
                shared_folder=shared_folder,
                timeout_code=self._timeout_code,
            )
            self._hub_thread.start()
        else:  # the hub, when it asks, shall know of this worker
            self._own_port = contextlib.ExitStack()
            self._own_port.enter_context(messages.answering(listener))
        # Of two sockets on TensorFlow's port one listens until all have reached it; the other
        # keeps anybody else off the port until TensorFlow takes it.
        self._reservation = messages.bound(ip)
        port = self._reservation.getsockname()[1]
        with messages.answering(messages.bound(ip, port)):
            hello = {
                "rank": cluster.rank,
                "num_workers": cluster.num_workers,
                "port": port,
                "facts": dict(facts),
            }
            peers = self._until_deadline(lambda: self._meet(hello), waits_for=0)
            hosts = [split_address(worker)[0] for worker in cluster.workers]
            self.tensorflow_cluster = Cluster(
                tuple(join_address(h, p) for h, p in zip(hosts, peers["peers"], strict=True)),
                cluster.rank,
                cluster.source,
            )
            problem = self._problem(peers["token"])
            try:
                self._hub.send({"ready": problem})
                self._next("go")
            except OSError as error:
                raise PeerFailure(self._hub_is_gone()) from error
        self._thread = threading.Thread(target=self._listen, name="membership", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def tensorflow_has_joined(self) -> None:
        """Frees what kept TensorFlow's port until now, and tells the others."""
        self._reservation.close()
        self._send_if_possible({"joined": True})

    def fail(self, reason: str, exit_code: int) -> None:
        """Tells the others why this worker ends."""
        self._leaving = True
        self._send_if_possible({"failed": exit_code, "reason": " ".join(reason.split())})
        self._wait_for_hub()

    def leave(self) -> None:
        """Says that this worker is done, and waits until all are."""
        self._leaving = True
        self._send_if_possible({"bye": True})
        self._left.wait(_LEAVE_SECONDS)

    def explain(self) -> None:
        """Called when TensorFlow has lost a peer: ends the process as soon as it is known whose.

        Returns only if nobody has found anything wrong in the time that this may take.
        """
        self._thread.join(rendezvous_server.SILENCE_SECONDS + 2 * rendezvous_server.BEAT_SECONDS)

    def _wait_for_hub(self) -> None:
        """Lets the hub, if it is in this process, tell all others before the process ends."""
        if self._hub_thread:
            self._hub_thread.join(messages.CONNECT_SECONDS)

    def _own_listener(self) -> tuple[str, socket.socket]:
        """Returns this worker's IP address, and a socket bound to its place in the list."""
        address = self._cluster.workers[self._cluster.rank]
        host, port = split_address(address)
        ip = self._until_deadline(lambda: messages.resolve(host))
        if not messages.is_local(ip):
            raise InputError(
                f"A worker's address must be one of its own machine. Received: {address} ({ip}) "
                f"for worker {self._cluster.rank} from {self._cluster.source}, and this machine "
                f"is {socket.gethostname()}. Correct the task index or the list."
            )
        give_up = time.monotonic() + TAKEN_SECONDS
        while True:
            try:
                return ip, messages.bound(ip, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < give_up:
                    messages.pause(give_up)
                    continue
                raise self._ended(
                    self._timeout_code,
                    f"A worker's port must be free. Received: {address} from "
                    f"{self._cluster.source} ({error.strerror}): another job has it, or this "
                    "worker was started twice. End that, or choose another port.",
                ) from error

    def _meet(self, hello: dict) -> dict:
        """Says hello to the hub, and returns its answer when all workers have done so.

        Raises:
          OSError: the hub is not there, or is still that of another job.
        """
        self._hub = Connection(messages.connect(self._cluster.workers[0]))
        try:
            self._hub.send({"hello": hello})
            return self._next("peers")
        except OSError as error:
            self._hub.close()
            raise OSError("it is busy with another job, or has just ended") from error

    def _until_deadline(self, attempt, waits_for: int | None = None):
        """Returns what an attempt returns, repeated until it raises no OSError or time is up."""
        progress = time.monotonic() + rendezvous_server.PROGRESS_SECONDS
        rank = self._cluster.rank if waits_for is None else waits_for
        while True:
            try:
                return attempt()
            except OSError as error:
                now = time.monotonic()
                if now > self._deadline:
                    raise self._ended(
                        self._timeout_code,
                        f"{self._cluster.name(rank)} must be there within {self._timeout:g} s. "
                        f"Received: {error} ({self._cluster.source}). Start it, correct its "
                        "address, or raise --startup_timeout.",
                    ) from error
                if now > progress:
                    progress = now + rendezvous_server.PROGRESS_SECONDS
                    print(f"waiting for {self._cluster.name(rank)}: {error}", flush=True)
                messages.pause(self._deadline)

    def _problem(self, token: str) -> str | None:
        """Returns what this worker cannot do that it must."""
        ips: dict[str, str] = {}
        deadline = time.monotonic() + REACH_SECONDS
        for rank, address in enumerate(self.tensorflow_cluster.workers):
            host, port = split_address(address)
            try:
                # A network that is just back has gaps.
                ips[host] = ips.get(host) or messages.persist(messages.resolve, host, deadline)
                peer = join_address(ips[host], port)
                messages.persist(messages.connect, peer, deadline).close()
            except OSError as error:
                return (
                    f"must reach {self._cluster.name(rank)} on any port. Received, for port "
                    f"{port}: {error}. Open the ports between the hosts."
                )
        folder, name = os.path.split(token)
        deadline = time.monotonic() + FOLDER_SECONDS
        try:
            while name not in os.listdir(folder):  # what exists() says may come from a cache
                if time.monotonic() > deadline:
                    return (
                        f"must see the same model folder as worker 0. Received: {folder}, another "
                        "one on each host. Put it on a file system that all hosts share."
                    )
                messages.pause(deadline)
        except OSError as error:
            return f"must be able to read the model folder. Received: {error}."
        return None

    def _next(self, name: str) -> dict:
        """Returns the next message of this name, before the job runs.

        Raises:
          InputError, PeerFailure: the hub has ended the job.
          OSError: the hub is gone.
        """
        # The hub's own limit ends sooner, except where the hub is gone without a trace.
        until = self._deadline + 2 * rendezvous_server.CHECK_SECONDS
        while True:
            received = self._hub.receive(max(0.1, until - time.monotonic()))
            # The end of the job may come along with what is waited for.
            for message in received:
                if "end" in message:
                    end = message["end"]
                    raise self._ended(end["exit_code"], end["reason"])
            for message in received:
                if name in message:
                    return message

    def _ended(self, exit_code: int, reason: str) -> Exception:
        self._wait_for_hub()
        return InputError(reason) if exit_code == EXIT_BAD_INPUT else PeerFailure(reason)

    def _hub_is_gone(self) -> str:
        return f"{self._cluster.name(0)} is gone: its process ended, or its connection broke"

    def _listen(self) -> None:
        """Ends the process when the hub says so, or when the hub is silent."""
        heard, limit = time.monotonic(), rendezvous_server.JOIN_SECONDS
        while True:
            asked = time.monotonic()
            try:
                for message in self._hub.receive(rendezvous_server.BEAT_SECONDS):
                    if message.get("joined"):
                        limit = rendezvous_server.SILENCE_SECONDS
                    if "end" in message:
                        self._exit(message["end"]["exit_code"], message["end"]["reason"])
                    if "done" in message:
                        self._left.set()
                        return
                heard = time.monotonic()
            except TimeoutError:
                now = time.monotonic()
                if now - asked > 2 * rendezvous_server.BEAT_SECONDS:  # this thread was held up
                    heard = max(heard, now - rendezvous_server.BEAT_SECONDS)
                elif now - heard > limit:
                    self._exit(
                        EXIT_PEER_FAILED,
                        f"nothing was heard of {self._cluster.name(0)} for "
                        f"{limit:g} s: it hangs, or its network is down",
                    )
            except OSError:
                if self._leaving:
                    self._left.set()
                    return
                self._exit(EXIT_PEER_FAILED, self._hub_is_gone())

    def _exit(self, exit_code: int, reason: str) -> None:
        """Ends this process at once: its main thread may wait for a lost peer for ever."""
        if self._leaving:
            self._left.set()
            return
        with contextlib.suppress(OSError):
            print(f"error: {reason}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(exit_code)

    def _beat(self) -> None:
        while not self._left.wait(rendezvous_server.BEAT_SECONDS):
            self._send_if_possible({"alive": True})

    def _send_if_possible(self, message: dict) -> None:
        with contextlib.suppress(OSError):  # the thread that listens tells why
            self._hub.send(message)

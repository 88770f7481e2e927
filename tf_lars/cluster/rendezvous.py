"""A worker's part in the rendezvous: checks before TensorFlow joins, and heartbeats from then on.

TensorFlow hangs silently when a host name does not resolve, and does not say which peer is lost. So
the workers of a `Cluster` first register with a rendezvous server in worker 0. All must register
within the time limit, with the same settings, program and data, and every worker must reach every
other on the port that TensorFlow will use, a fresh one at each start. The connections to the server
stay open, with heartbeats in both directions every two seconds.

Workers that only know the address of worker 0 learn those of the others here: each registers the
address from which it has reached worker 0.
"""

import contextlib
import dataclasses
import errno
import functools
import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import TypeVar

from tf_lars.cluster import messages, rendezvous_server, secret
from tf_lars.cluster.messages import Connection
from tf_lars.cluster.rendezvous_server import RendezvousServer
from tf_lars.cluster.spec import Cluster, join_address, split_address
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, InputError, PeerFailure

T = TypeVar("T")

STARTUP_SECONDS = 300.0
"""Default time limit for all workers to register."""
TAKEN_SECONDS = 10.0
"""Time limit for the predecessor of a restarted worker to free its port."""
REACH_SECONDS = 30.0
"""Time limit for reaching the ports of the other workers."""
_LEAVE_SECONDS = 120.0


def package_versions() -> dict[str, str]:
    """Returns the versions that must be equal on all workers, by their names in messages."""
    return {f"version of {name}": metadata.version(name) for name in ("tensorflow", "keras")}


class Rendezvous:
    """One worker's connection to the rest of its job, made when all workers have passed the checks.

    Args:
      cluster: Addresses at which the workers meet, or that of worker 0 alone, and this worker's
        rank.
      facts: Values that must be equal on all workers, by their name in messages.
      timeout: Seconds within which all workers must register.
      shared_folder: Existing folder that all workers must see, and through which they get a secret
        (`tf_lars.cluster.secret`); None for no check.
      is_restart: Whether the job has run before. If so, a worker that does not come back counts as
        a failed peer, not as bad input, in the exit code.

    Attributes:
      cluster: The cluster, with the addresses of all workers.
      tensorflow_cluster: Cluster with the ports that TensorFlow is to use.

    Raises:
      InputError: If this worker's address is not on this machine or its port is taken; or, with the
        same message on all workers, if they disagree or one is missing.
      PeerFailure: If a worker is lost meanwhile.
    """

    def __init__(
        self,
        cluster: Cluster,
        facts: Mapping[str, str],
        *,
        timeout: float = STARTUP_SECONDS,
        shared_folder: str | None,
        is_restart: bool = False,
    ):
        self.cluster = cluster
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._timeout_code = EXIT_PEER_FAILED if is_restart else EXIT_BAD_INPUT
        self._left = threading.Event()
        self._leaving = False
        self._server_thread: RendezvousServer | None = None
        host = ""
        if cluster.lacks_addresses and not cluster.is_chief:
            host, ip = self._until_deadline(self._own_host, waits_for=0)
            listener = None
        else:
            ip, listener = self._own_listener()
        self._folder, self._keys = shared_folder, dict[str, bytes]()
        if cluster.is_chief:
            assert listener
            self._server_thread = self._server_of_all(listener, ip)
            self._server_thread.start()
        elif listener:  # shows the server that this worker has started
            self._own_port = contextlib.ExitStack()
            self._own_port.enter_context(messages.answering(listener))
        # Of two sockets on TensorFlow's port, one listens until all workers have reached it; the
        # other reserves the port until TensorFlow takes it.
        self._reservation = messages.bound(ip)
        port = self._reservation.getsockname()[1]
        with messages.answering(messages.bound(ip, port)):
            hello = {
                "rank": cluster.rank,
                "num_workers": cluster.num_workers,
                "host": host,
                "port": port,
                "facts": dict(facts),
            }
            peers = self._until_deadline(lambda: self._register(hello), waits_for=0)
            self.tensorflow_cluster = dataclasses.replace(cluster, workers=tuple(peers["peers"]))
            if cluster.lacks_addresses:
                self.cluster = self.tensorflow_cluster
            problem = self._problem()
            try:
                self._server.send({"ready": problem})
                self._next("go")
            except OSError as error:
                raise PeerFailure(self._server_is_gone()) from error
        self._thread = threading.Thread(target=self._listen, name="rendezvous", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def tensorflow_has_joined(self) -> None:
        """Ends the reservation of TensorFlow's port, and tells the other workers."""
        self._reservation.close()
        self._send_if_possible({"joined": True})

    def fail(self, reason: str, exit_code: int) -> None:
        """Tells the other workers why this one ends."""
        self._leaving = True
        self._send_if_possible({"failed": exit_code, "reason": " ".join(reason.split())})
        self._wait_for_server()

    def leave(self) -> None:
        """Reports that this worker is done, and waits until all are."""
        self._leaving = True
        self._send_if_possible({"bye": True})
        self._left.wait(_LEAVE_SECONDS)

    def explain(self) -> None:
        """Ends the process with the name of the peer that TensorFlow has lost, once it is known.

        Returns only if no loss is detected within the time limit for heartbeats.
        """
        self._thread.join(rendezvous_server.SILENCE_SECONDS + 2 * rendezvous_server.BEAT_SECONDS)

    def _wait_for_server(self) -> None:
        """Lets a server in this process tell all other workers before the process ends."""
        if self._server_thread:
            self._server_thread.join(messages.CONNECT_SECONDS)

    def _server_of_all(self, listener: socket.socket, ip: str) -> RendezvousServer:
        """Returns the rendezvous server, with a new secret."""

        def report(error: OSError) -> None:
            if not waits:
                print(f"waiting until the model folder is writable: {error}", flush=True)
                waits.append(error)

        waits: list[OSError] = []
        try:
            # A full disk may have space again soon, as for checkpoints.
            known = messages.retry(lambda: secret.create(self._folder), self._deadline, report)
        except OSError as error:
            raise self._ended(
                self._timeout_code, f"The model folder must be writable. Received: {error}."
            ) from error
        if not known.exists and not ipaddress.ip_address(ip).is_loopback:
            print(
                f"warning: any client that reaches {self.cluster.workers[0]} can disturb this job. "
                f"Set {secret.VARIABLE} to the same secret on all workers.",
                file=sys.stderr,
                flush=True,
            )
        return RendezvousServer(
            self.cluster,
            listener,
            timeout=self._timeout,
            secret=known,
            timeout_code=self._timeout_code,
        )

    def _own_host(self) -> tuple[str, str]:
        """Returns the name and the IP address at which the others reach this worker's machine.

        Raises:
          OSError: Worker 0 cannot be reached.
        """
        with messages.connect(self.cluster.workers[0]) as sock:
            ip = str(sock.getsockname()[0])
        if not ipaddress.ip_address(ip).is_loopback:
            return ip, ip
        # Worker 0 is on the same machine, and other machines know that one by its name.
        host = self.cluster.hosts[0]
        return host, messages.resolve(host)

    def _own_listener(self) -> tuple[str, socket.socket]:
        """Returns this worker's IP address, and a socket bound to its address in the cluster."""
        address = self.cluster.workers[self.cluster.rank]
        host, port = split_address(address)
        ip = self._until_deadline(lambda: messages.resolve(host), self.cluster.rank)
        if not messages.is_local(ip):
            raise InputError(
                f"A worker's address must belong to its own machine. Received: {address} ({ip}) "
                f"for worker {self.cluster.rank} from {self.cluster.source}, on the machine "
                f"{socket.gethostname()}. Correct the rank or the address."
            )

        def only_if_taken(error: OSError) -> None:
            if error.errno != errno.EADDRINUSE:
                raise error

        deadline = time.monotonic() + TAKEN_SECONDS
        try:
            return ip, messages.retry(lambda: messages.bound(ip, port), deadline, only_if_taken)
        except OSError as error:
            raise self._ended(
                self._timeout_code,
                f"A worker's port must be free. Received: {address} from {self.cluster.source} "
                f"({error.strerror}): another job uses it, or this worker was started twice. End "
                "that process, or choose another port.",
            ) from error

    def _register(self, hello: dict) -> dict:
        """Registers with the server, and returns its answer when all workers have registered.

        Raises:
          OSError: If the server is not there, or still serves another job.
        """
        self._server = Connection(messages.connect(self.cluster.workers[0]))
        try:
            name = self.cluster.name(0)
            secret.prove(self._server, self._folder, self._keys, name)
            self._server.send({"hello": hello})
            return self._next("peers")
        except OSError as error:
            self._server.close()
            if isinstance(error, secret.Impostor):
                raise
            raise OSError("it is busy with another job, or has just ended") from error

    def _until_deadline(self, attempt: Callable[[], T], waits_for: int) -> T:
        """Retries an attempt until it raises no OSError, and reports the worker it waits for."""
        name = self.cluster.name(waits_for)
        progress = time.monotonic() + rendezvous_server.PROGRESS_SECONDS

        def report(error: OSError) -> None:
            nonlocal progress
            if time.monotonic() > progress:
                progress = time.monotonic() + rendezvous_server.PROGRESS_SECONDS
                print(f"waiting for {name}: {error}", flush=True)

        try:
            return messages.retry(attempt, self._deadline, report)
        except OSError as error:
            raise self._ended(
                self._timeout_code,
                f"{name} must be reachable within {self._timeout:g} s. Received: {error} "
                f"({self.cluster.source}). Start it, correct its address, or raise "
                "startup_timeout.",
            ) from error

    def _problem(self) -> str | None:
        """Returns the check that this worker fails, as the rest of a sentence about it, or None."""
        ips: dict[str, str] = {}
        deadline = time.monotonic() + REACH_SECONDS
        for rank, address in enumerate(self.tensorflow_cluster.workers):
            host, port = split_address(address)
            try:
                # Retries, since a network that has just come back still loses packets.
                if host not in ips:
                    look_up = functools.partial(messages.resolve, host)
                    ips[host] = messages.retry(look_up, deadline)
                connect = functools.partial(messages.connect, join_address(ips[host], port))
                messages.retry(connect, deadline).close()
            except OSError as error:
                return (
                    f"must reach {self.cluster.name(rank)} on any port. Received for port "
                    f"{port}: {error}. Open the ports between the hosts."
                )
        if self.cluster.is_chief:
            _warn_of_public(ips.values())
        return None

    def _next(self, name: str) -> dict:
        """Returns the server's next message of this name, before the job runs.

        Raises:
          InputError, PeerFailure: If the server has ended the job.
          OSError: If the server is gone.
        """
        # The server's own limit is shorter; this one is for a server that vanished silently.
        until = self._deadline + 2 * rendezvous_server.CHECK_SECONDS
        while True:
            received = self._server.receive(max(0.1, until - time.monotonic()))
            # The end of the job may arrive together with the message.
            for message in received:
                if "end" in message:
                    end = message["end"]
                    raise self._ended(end["exit_code"], end["reason"])
            for message in received:
                if name in message:
                    return message

    def _ended(self, exit_code: int, reason: str) -> Exception:
        self._wait_for_server()
        return InputError(reason) if exit_code == EXIT_BAD_INPUT else PeerFailure(reason)

    def _server_is_gone(self) -> str:
        return f"{self.cluster.name(0)} is gone: its process ended, or its connection broke"

    def _listen(self) -> None:
        """Ends the process when the server asks for it, or is silent."""
        heard, limit = time.monotonic(), rendezvous_server.JOIN_SECONDS
        while True:
            asked = time.monotonic()
            try:
                for message in self._server.receive(rendezvous_server.BEAT_SECONDS):
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
                        f"no heartbeat from {self.cluster.name(0)} for {limit:g} s: it hangs, "
                        "or its network is down",
                    )
            except OSError:
                if self._leaving:
                    self._left.set()
                    return
                self._exit(EXIT_PEER_FAILED, self._server_is_gone())

    def _exit(self, exit_code: int, reason: str) -> None:
        """Ends the process immediately: its main thread may wait for a lost peer forever."""
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
        with contextlib.suppress(OSError):  # `_listen` reports the cause
            self._server.send(message)


def _warn_of_public(ips: Iterable[str]) -> None:
    """Warns of addresses at which more than a private network may reach TensorFlow."""
    public = sorted(ip for ip in ips if ipaddress.ip_address(ip.partition("%")[0]).is_global)
    if public:
        print(
            f"warning: {public[0]} is a public address. TensorFlow listens on all interfaces of "
            "every worker and runs whatever it is sent: let a firewall admit the job's hosts only "
            "(docs/security.md).",
            file=sys.stderr,
            flush=True,
        )

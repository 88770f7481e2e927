"""Lets the workers of a job in at worker 0's address, and keeps everything else out.

Every client is a guest until it has proven that it knows the job's secret
(`tf_lars.cluster.secret`) and has registered. A guest costs its own connection only: nothing that
it says is believed, it has ten seconds for everything, and beyond a number of guests, or when files
run out, the oldest is dropped.
"""

import contextlib
import dataclasses
import errno
import resource
import selectors
import socket
import time
from typing import Any

from tf_lars.cluster import messages, secret
from tf_lars.cluster.messages import Connection
from tf_lars.cluster.secret import Secret

HELLO_SECONDS = 10.0
"""Time limit for a guest to prove itself and to register, however slowly it sends."""
MOST_GUESTS = 512
"""Number of guests beyond which the oldest is dropped."""
_BACKLOG = 4096
"""Connections that the system holds until they are accepted; it may allow fewer."""
_AT_A_TIME = 256
_LARGEST_HELLO = 1 << 17
_MOST_COMPLAINTS = 4


@dataclasses.dataclass(eq=False)
class Guest:
    """A connection of a client that has not registered.

    Attributes:
      connection: The connection.
      host: IP address of the other side.
      challenge: Challenge that it has to answer.
      is_proven: Whether it knows the secret.
      arrived: Time of `time.monotonic`.
    """

    connection: Connection
    host: str
    challenge: str
    is_proven: bool = False
    arrived: float = dataclasses.field(default_factory=time.monotonic)


class Admission:
    """The door of a job.

    Args:
      listener: Socket bound to worker 0's address.
      key: The job's secret.
      selector: Selector that watches the listener and the guests; their data is the listener itself
        and the `Guest`.

    Attributes:
      complaints: IP addresses of some that have been turned away, each with the reason.
    """

    def __init__(self, listener: socket.socket, key: Secret, selector: selectors.BaseSelector):
        self._listener = listener
        self._secret = key
        self._selector = selector
        self._guests: dict[Guest, None] = {}  # in the order of their arrival
        self._is_open = True
        self.complaints: list[tuple[str, str]] = []
        _raise_limit_of_files()
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        selector.register(listener, selectors.EVENT_READ, listener)

    def accept(self) -> bool:
        """Takes the connections that wait; returns False if there are no files left for workers."""
        for _ in range(_AT_A_TIME):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    return True
                if not self._guests:
                    return False
                self.drop(next(iter(self._guests)))
                continue
            if not self._is_open:
                sock.close()
                continue
            if len(self._guests) >= MOST_GUESTS:
                self.drop(next(iter(self._guests)))
            guest = Guest(Connection(sock, _LARGEST_HELLO), address[0], secret.new_challenge())
            try:
                guest.connection.send(secret.greeting(self._secret, guest.challenge))
            except OSError:
                guest.connection.close()
                continue
            self._guests[guest] = None
            self._selector.register(sock, selectors.EVENT_READ, guest)
        return True

    def hello(self, guest: Guest) -> dict[str, Any] | None:
        """Reads what a guest sends; returns its registration once it has proven itself.

        The guest then belongs to the caller, and is still in the selector.
        """
        if guest not in self._guests:
            return None
        try:
            received = guest.connection.receive(messages.CONNECT_SECONDS)
        except OSError:
            self.drop(guest)
            return None
        for message in received:
            if guest.is_proven and isinstance(message.get("hello"), dict):
                del self._guests[guest]
                return message["hello"]
            if guest.is_proven or not self._is_proof(guest, message):
                self.drop(guest)
                return None
        return None

    def expire(self) -> None:
        """Drops the guests whose time is up."""
        now = time.monotonic()
        for guest in list(self._guests):
            if now - guest.arrived <= HELLO_SECONDS:
                return
            self.drop(guest)

    def drop(self, guest: Guest) -> None:
        """Closes the connection of a guest."""
        if guest in self._guests:
            del self._guests[guest]
            self._selector.unregister(guest.connection.sock)
        guest.connection.close()

    def close_door(self) -> None:
        """Drops all guests, and turns away all later connections."""
        self._is_open = False
        for guest in list(self._guests):
            self.drop(guest)

    def end(self) -> None:
        """Drops all guests and stops listening."""
        self.close_door()
        self._listener.close()

    def _is_proof(self, guest: Guest, message: dict[str, Any]) -> bool:
        """Returns whether a guest has proven itself, and answers its own challenge if so."""
        theirs = message.get("challenge")
        if "cannot" in message:
            self._complain(guest, messages.printable(message["cannot"]))
            return False
        if not secret.is_challenge(theirs):
            return False  # another program
        key = self._secret.key
        if not secret.is_answer(message.get("answer"), key, "worker", guest.challenge, theirs):
            self._complain(guest, "it does not know the secret of this job")
            with contextlib.suppress(OSError):
                guest.connection.send({"refused": True})
            return False
        guest.is_proven = True
        with contextlib.suppress(OSError):
            guest.connection.send({"answer": secret.answer(key, "server", theirs, guest.challenge)})
        return True

    def _complain(self, guest: Guest, reason: str) -> None:
        complaint = guest.host, reason  # two workers of one host may fail for different reasons
        if complaint not in self.complaints and len(self.complaints) < _MOST_COMPLAINTS:
            self.complaints.append(complaint)
            print(f"refused a connection from {guest.host}: {reason}", flush=True)


def _raise_limit_of_files() -> None:
    """Allows this process as many open files as the system does: one for each worker."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

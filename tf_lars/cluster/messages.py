"""Connections between the workers of a job that carry one JSON object per line."""

import contextlib
import errno
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tf_lars.cluster.spec import split_address

T = TypeVar("T")

CONNECT_SECONDS = 5.0
RESOLVE_SECONDS = 10.0


class Connection:
    """A TCP connection for messages; any of its methods may raise OSError.

    Args:
      sock: connected.
    """

    def __init__(self, sock: socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._received = b""
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; only a peer that has read nothing for long keeps it waiting, briefly."""
        with self._sending:
            self.sock.settimeout(CONNECT_SECONDS)
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> list[dict[str, Any]]:
        """Returns the messages that have come by now.

        Args:
          seconds: how long to wait for the next part of one.

        Raises:
          TimeoutError: nothing came in this time.
          ConnectionError: the peer has closed the connection, or sends no such messages.
        """
        self.sock.settimeout(seconds)
        block = self.sock.recv(1 << 16)
        if not block:
            raise ConnectionResetError("the connection was closed")
        *lines, self._received = (self._received + block).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise ConnectionAbortedError("no message of a worker") from error
        if len(self._received) > 1 << 20 or not all(isinstance(m, dict) for m in messages):
            raise ConnectionAbortedError("no message of a worker")
        return messages

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self.sock.close()


def connect(address: str, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """Connects to "host:port".

    Raises:
      OSError: why not, in words for a person.
    """
    host, port = split_address(address)
    ip = resolve(host)
    try:
        return socket.create_connection((ip, port), seconds)
    except ConnectionRefusedError as error:
        raise ConnectionRefusedError("it has not started, nothing listens on its port") from error
    except TimeoutError as error:
        raise TimeoutError(f"{ip} does not answer") from error
    except OSError as error:
        raise OSError(f"{ip} cannot be reached ({error.strerror})") from error


def resolve(host: str, seconds: float = RESOLVE_SECONDS) -> str:
    """Returns the IP address of a host, within a time limit that the resolver itself has not.

    Raises:
      OSError: the name does not resolve.
    """
    found: list[str] = []

    def look_up():
        with contextlib.suppress(OSError, UnicodeError):
            found.append(str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise OSError(f"the name {host} does not resolve")
    return found[0]


def is_local(ip: str) -> bool:
    """Returns whether an IP address is one of this machine's."""
    with socket.socket(_family(ip)) as sock:
        try:
            sock.bind((ip, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def bound(ip: str, port: int = 0) -> socket.socket:
    """Returns a socket that is bound, but does not listen yet.

    Args:
      ip: an address of this machine. A name of this host that resolves to 127.0.1.1, as Debian's
        does, is meant for all of its addresses; "127.0.0.1" itself is meant.
      port: 0 for any that is free.

    Raises:
      OSError: the port is taken.
    """
    address = ipaddress.ip_address(ip)
    only_loopback = address.is_loopback and str(address) not in ("127.0.0.1", "::1")
    sock = socket.socket(_family(ip))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("" if only_loopback else ip, port))
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def answering(sock: socket.socket):
    """Accepts connections to a bound socket, and closes them, within this context."""

    def accept():
        while sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                sock.accept()[0].close()

    sock.settimeout(0.5)
    sock.listen(128)
    thread = threading.Thread(target=accept, name="answering", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # closed alone, it would listen until accept returns
        sock.close()
        thread.join()


def persist(call: Callable[[str], T], target: str, deadline: float) -> T:
    """Returns what `call(target)` returns, tried until the deadline (of `time.monotonic`).

    Raises:
      OSError: of the last try.
    """
    while True:
        try:
            return call(target)
        except OSError:
            if time.monotonic() >= deadline:
                raise
            pause(deadline)


def pause(deadline: float, seconds: float = 0.2) -> None:
    """Waits a little before another try, but not beyond the deadline (of `time.monotonic`)."""
    time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET

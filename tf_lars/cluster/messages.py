"""Connections between the workers of a job, which carry one JSON object per line."""

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
LARGEST_MESSAGE = 1 << 24
"""Bytes; the addresses of 100,000 workers take about 3 MB."""


class Connection:
    """A TCP connection that carries messages; `send` and `receive` may raise OSError.

    Args:
      sock: Connected socket.
      limit: Largest message to receive, in bytes.

    Attributes:
      limit: The same; may be changed.
    """

    def __init__(self, sock: socket.socket, limit: int = LARGEST_MESSAGE):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.limit = limit
        self._received = b""
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message. Blocks, briefly, only if the peer has stopped reading."""
        self.send_line(encoded(message))

    def send_line(self, text: bytes) -> None:
        """Sends a message that `encoded` has made, as `send` does."""
        with self._sending:
            self.sock.settimeout(CONNECT_SECONDS)
            self.sock.sendall(text)

    def receive(self, seconds: float | None = None) -> list[dict[str, Any]]:
        """Returns the messages received since the last call.

        Args:
          seconds: Time limit for the next block of data.

        Raises:
          TimeoutError: If no data arrives in this time.
          ConnectionError: If the peer has closed the connection or sends something else.
        """
        self.sock.settimeout(seconds)
        block = self.sock.recv(1 << 16)
        if not block:
            raise ConnectionResetError("the connection was closed")
        *lines, self._received = (self._received + block).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise ConnectionAbortedError("not a worker's message") from error
        if len(self._received) > self.limit or not all(isinstance(m, dict) for m in messages):
            raise ConnectionAbortedError("not a worker's message")
        return messages

    def next(self, seconds: float) -> dict[str, Any]:
        """Returns the next message; those that arrive together with it are lost.

        Args:
          seconds: Time limit.

        Raises:
          OSError: As of `receive`.
        """
        deadline = time.monotonic() + seconds
        while True:
            received = self.receive(max(0.01, deadline - time.monotonic()))
            if received:
                return received[0]

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self.sock.close()


def encoded(message: Mapping[str, Any]) -> bytes:
    """Returns a message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def printable(text: object, most: int = 300) -> str:
    """Returns received text as a single line without control characters, for a message."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * most])
    return " ".join(shown.split())[:most]


def connect(address: str, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """Connects to "host:port".

    Raises:
      OSError: If the connection fails; the message is readable on its own.
    """
    host, port = split_address(address)
    ip = resolve(host)
    try:
        return socket.create_connection((ip, port), seconds)
    except ConnectionRefusedError as error:
        raise ConnectionRefusedError("it has not started (nothing listens on its port)") from error
    except TimeoutError as error:
        raise TimeoutError(f"{ip} does not answer") from error
    except OSError as error:
        raise OSError(f"{ip} cannot be reached ({error.strerror})") from error


def resolve(host: str, seconds: float = RESOLVE_SECONDS) -> str:
    """Returns the IP address of a host, with a time limit, which the system's resolver lacks.

    Raises:
      OSError: If the name does not resolve in time.
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
    """Returns whether an IP address belongs to this machine."""
    with socket.socket(_family(ip)) as sock:
        try:
            sock.bind((ip, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def bound(ip: str, port: int = 0) -> socket.socket:
    """Returns a socket that is bound but not yet listening.

    Args:
      ip: Address of this machine. 127.0.0.1 and ::1 bind the loopback interface only; any other
        loopback address, such as Debian's 127.0.1.1 for a host's own name, binds all interfaces.
      port: Port, or 0 for any free one.

    Raises:
      OSError: If the port is taken.
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
    """Accepts and immediately closes connections to a bound socket, within this context."""

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
            sock.shutdown(socket.SHUT_RDWR)  # after close alone, it listens until accept returns
        sock.close()
        thread.join()


def retry(
    call: Callable[[], T],
    deadline: float,
    before_retry: Callable[[OSError], None] = lambda error: None,
) -> T:
    """Calls a function until it raises no OSError, and returns its result.

    Args:
      call: Function to call.
      deadline: Time, of `time.monotonic`, after which the next OSError is raised.
      before_retry: Called with each error that leads to a retry. Raises the error to give up.

    Raises:
      OSError: The error of the last call.
    """
    while True:
        try:
            return call()
        except OSError as error:
            if time.monotonic() >= deadline:
                raise
            before_retry(error)
            pause(deadline)


def pause(deadline: float, seconds: float = 0.2) -> None:
    """Sleeps before another attempt, but not past the deadline (of `time.monotonic`)."""
    time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET

"""Hosts on this machine, each with its own address: network namespaces joined by a bridge.

    with network_hosts.connected(2) as hosts:
        server = hosts.popen(0, ["python", "server.py", f"--address={hosts.address(0)}:2222"])
        hosts.cut(1)  # pulls host 1's cable
        hosts.restore(1)

The bridge also has its own namespace: the machine's interfaces and addresses stay as they are, and
there is no traffic between the hosts and the outside. All hosts share the machine's files and
processes. A process on a host sees mounts made after its start only below a `faulty_disks.small`
disk that was mounted before.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import afterwards, programs

NETWORK = "10.77.0."
SECONDS = 30
_NAMESPACES = Path("/run/netns")
_NAMES = Path("/etc/netns")  # files that `ip netns exec` mounts over those of /etc


class Hosts:
    """The hosts 0, 1, ...; made by `connected`. Their names are host0, host1, ..."""

    def __init__(self, count: int):
        self.count = count
        # Concurrent test runs must not collide.
        self.prefix = f"tf-lars-{os.getpid()}-{secrets.token_hex(3)}"
        """Prefix of the names of all namespaces."""
        self._bridge = f"{self.prefix}-bridge"

    def address(self, host: int) -> str:
        """Returns the host's address."""
        return f"{NETWORK}{1 + self._valid(host)}"

    def name(self, host: int) -> str:
        """Returns the host's name, which every host can resolve."""
        return f"host{self._valid(host)}"

    def namespace(self, host: int) -> str:
        """Returns the name of the host's namespace in `ip netns`."""
        return f"{self.prefix}-host{self._valid(host)}"

    def run(self, host: int, command, **kwargs) -> subprocess.CompletedProcess:
        """Runs a command on the host, as `subprocess.run` does."""
        return subprocess.run(self._on(host, command), **kwargs)

    def popen(self, host: int, command, **kwargs) -> subprocess.Popen:
        """Starts a command on the host, as `subprocess.Popen` does; its `pid` is the command's."""
        return subprocess.Popen(self._on(host, command), **kwargs)

    def cut(self, host: int) -> None:
        """Takes the host off the network silently: its packets are lost."""
        self._set_port(host, "down")

    def restore(self, host: int) -> None:
        """Connects the host to the network again."""
        self._set_port(host, "up")

    def _set_port(self, host, state):
        _ip("-n", self._bridge, "link", "set", f"port{self._valid(host)}", state)

    def _on(self, host, command):
        return ["ip", "netns", "exec", self.namespace(host), *map(str, command)]

    def _valid(self, host):
        if not 0 <= host < self.count:
            raise IndexError(f"Hosts are numbered from 0 to {self.count - 1}. Received: {host}.")
        return host

    def _build(self):
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for host in range(self.count):
            here, port = self.namespace(host), f"port{host}"
            _ip("netns", "add", here)
            # Both ends are created in their namespaces, never in the machine's own.
            peer = ["peer", "name", port, "netns", self._bridge]
            _ip("-n", here, "link", "add", "eth0", "type", "veth", *peer)
            _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", here, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", here, "link", "set", "lo", "up")
            _ip("-n", here, "link", "set", "eth0", "up")
            self._write_names(host)

    def _write_names(self, host):
        lines = ["127.0.0.1 localhost", f"{self.address(host)} {socket.gethostname()}"]
        lines += [f"{self.address(other)} {self.name(other)}" for other in range(self.count)]
        folder = _NAMES / self.namespace(host)
        folder.mkdir(parents=True)
        (folder / "hosts").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def connected(count: int):
    """Yields `Hosts`; skips the test if this user may not create network namespaces.

    At the end, processes that still run on the hosts are killed, and the hosts are removed.
    """
    if reason := unavailable():
        pytest.skip(reason)
    hosts = Hosts(count)
    with afterwards.call(__name__, "remove", hosts.prefix):
        hosts._build()
        yield hosts


def remove(prefix: str) -> None:
    """Removes the hosts whose namespaces have this prefix, and the processes on them."""
    namespaces = [path.name for path in _NAMESPACES.glob(f"{prefix}-*")]
    for namespace in namespaces:
        _end_processes(namespace)
        shutil.rmtree(_NAMES / namespace, ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds another run's files, or is gone
        _NAMES.rmdir()
    for namespace in namespaces:
        _ip("netns", "delete", namespace)


def unavailable() -> str | None:
    """Returns why hosts cannot be created here, or None."""
    if not shutil.which("ip"):
        return "network namespaces need `ip` (Debian's package iproute2)"
    trial = f"tf-lars-{os.getpid()}-{secrets.token_hex(3)}-trial"
    try:
        # A container may forbid the namespace, or the pair of interfaces in it.
        _ip("netns", "add", trial)
        _ip("-n", trial, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        _ip("-n", trial, "link", "add", "bridge", "type", "bridge")
        _ip("netns", "exec", trial, "true")
    except RuntimeError as error:
        return f"network namespaces cannot be created here: {error}"
    finally:
        if (_NAMESPACES / trial).exists():
            subprocess.run(["ip", "netns", "delete", trial], capture_output=True)
    return None


def _end_processes(namespace):
    """Kills all processes in the namespace, which are our commands and their children."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        listed = subprocess.run(
            ["ip", "netns", "pids", namespace], capture_output=True, text=True
        ).stdout.split()
        alive = [int(pid) for pid in listed if programs.is_running(pid)]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")

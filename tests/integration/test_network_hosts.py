"""The network namespaces that the launchers' tests use as hosts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import network_hosts

SECONDS = 60
# Answers each line with the same line.
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 2222))
print("listening", flush=True)
connection, _ = server.accept()
for line in connection.makefile("rb"):
    connection.sendall(line)
"""
# Sends its input lines there and prints the answers, or "lost" when there is none.
TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 2222), timeout=30)
for line in sys.stdin:
    connection.sendall(line.encode())
    try:
        print(connection.recv(1000).decode(), end="", flush=True)
        connection.settimeout(1)
    except TimeoutError:
        print("lost", flush=True)
        connection.settimeout(30)
        print(connection.recv(1000).decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def hosts():
    with network_hosts.connected(3) as hosts:
        yield hosts


def _start(hosts, host, program, *arguments):
    return hosts.popen(
        host,
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _output(hosts, host, *command):
    done = hosts.run(host, command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_connection_waits_while_its_host_is_cut_off_and_goes_on_when_it_is_back(hosts):
    with _start(hosts, 0, ECHO, hosts.address(0)) as server:
        assert server.stdout.readline() == "listening\n"
        with _start(hosts, 1, TALK, hosts.name(0)) as client:
            client.stdin.write("one\n")
            client.stdin.flush()
            assert client.stdout.readline() == "one\n"
            hosts.cut(0)
            try:
                client.stdin.write("two\n")
                client.stdin.flush()
                assert client.stdout.readline() == "lost\n"
                assert client.poll() is None
                assert server.poll() is None, "neither side is told"
            finally:
                hosts.restore(0)
            assert client.stdout.readline() == "two\n"
            client.stdin.close()
            assert client.wait(SECONDS) == 0
        assert server.wait(SECONDS) == 0


def test_each_host_has_its_own_address_and_ports(hosts):
    servers = [_start(hosts, host, ECHO, "0.0.0.0") for host in range(hosts.count)]
    try:
        for host, server in enumerate(servers):
            assert server.stdout.readline() == "listening\n"
            assert f"inet {hosts.address(host)}/24" in _output(hosts, host, "ip", "address")
    finally:
        for server in servers:
            server.kill()
            server.communicate()


def test_hosts_know_each_other_and_themselves_by_name(hosts):
    for other in range(hosts.count):
        looked_up = _output(hosts, 1, "getent", "hosts", hosts.name(other))
        assert looked_up.split() == [hosts.address(other), hosts.name(other)]
    assert hosts.run(1, ["getent", "hosts", "host9"], timeout=SECONDS).returncode != 0


def test_the_machine_itself_keeps_its_interfaces_and_is_out_of_reach(hosts):
    mine = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True).stdout
    assert network_hosts.NETWORK not in mine
    assert "default" not in _output(hosts, 0, "ip", "route")


def test_two_networks_do_not_meet(hosts):
    with network_hosts.connected(1) as others:
        assert others.address(0) == hosts.address(0)
        with _start(hosts, 0, ECHO, hosts.address(0)) as server:
            assert server.stdout.readline() == "listening\n"
            connect = f"import socket; socket.create_connection(('{others.address(0)}', 2222))"
            refused = others.run(0, [sys.executable, "-c", connect], capture_output=True)
            assert b"ConnectionRefusedError" in refused.stderr
            server.kill()


def test_afterwards_nothing_is_left_even_of_a_host_that_is_cut_off_and_busy():
    with network_hosts.connected(2) as hosts:
        hosts.cut(1)
        namespaces = [hosts.namespace(host) for host in range(2)]
        child = hosts.popen(1, ["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
        assert Path("/run/netns", namespaces[1]).exists()
    assert child.wait(SECONDS) == -9
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for namespace in namespaces:
        assert namespace not in listed
        assert not Path("/etc/netns", namespace).exists()


def test_a_host_that_is_not_there_is_named(hosts):
    with pytest.raises(IndexError, match="Received: 3"):
        hosts.cut(3)

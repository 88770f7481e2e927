"""Cleaning up after a test whose process is killed."""

import os
import subprocess
import sys

import pytest

from tests.helpers import network_hosts, programs, slurm_cluster

SECONDS = 120


def _output(*command, script=""):
    """Runs a program that kills itself; returns its output and that of its cleaner.

    Both hold the same standard output, which closes when both have ended.
    """
    with subprocess.Popen(
        [sys.executable, *command], cwd=programs.ROOT, stdin=-1, stdout=-1, text=True
    ) as process:
        output = process.communicate(script, timeout=SECONDS)[0]
    assert process.returncode == -9
    return output


@pytest.mark.slow
def test_hosts_and_what_runs_on_them_are_gone():
    if reason := network_hosts.unavailable():
        pytest.skip(reason)
    program = (
        "import os; from tests.helpers import network_hosts\n"
        "with network_hosts.connected(1) as hosts:\n"
        "    print(hosts.prefix, hosts.popen(0, ['sleep', '1000'], stdout=-3).pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    prefix, pid = _output("-c", program).split()
    assert not programs.is_running(pid)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert prefix not in listed


@pytest.mark.slow
def test_a_slurm_is_gone():
    if reason := slurm_cluster.unavailable():
        pytest.skip(reason)
    output = _output(
        "-m", "tests.helpers.slurm_cluster", script="echo $SLURM_CONF; kill -9 $PPID\n"
    )
    configuration = output.split()[-1]
    assert configuration.endswith("/slurm.conf")
    assert not os.path.exists(os.path.dirname(configuration))

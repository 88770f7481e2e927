"""Input pipelines on hosts that another process drives, through TensorFlow's servers on CPUs."""

import contextlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import network_hosts, programs, remote_input
from tf_lars.cluster import supervisor
from tf_lars.data import pipeline_host

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def _slice():
    """Yields `(addresses, on, is_apart)` of two hosts; without network namespaces, on loopback.

    `on(host, command)` is the command line that runs a command on a host.
    """
    if network_hosts.unavailable():
        ports = supervisor.free_ports(remote_input.HOSTS)
        yield [("127.0.0.1", port) for port in ports], lambda host, command: command, False
        return
    with network_hosts.connected(remote_input.HOSTS) as hosts:
        addresses = [(hosts.address(host), 8470) for host in range(hosts.count)]
        prefix = ["ip", "netns", "exec"]
        yield addresses, lambda host, command: [*prefix, hosts.namespace(host), *command], True


@pytest.fixture(scope="module")
def remote(digits_dir, tmp_path_factory):
    """Results of `tests.helpers.remote_input`, and whether each host had its own network."""
    output = tmp_path_factory.mktemp("remote") / "results.npz"
    servers = []
    with _slice() as (addresses, on, is_apart):
        try:
            for host, (_, port) in enumerate(addresses):
                command = programs.command("launch.tpu_server", f"--port={port}")
                servers.append(
                    subprocess.Popen(
                        on(host, command),
                        cwd=programs.ROOT,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                )
            for server in servers:
                assert server.stdout.readline().startswith("serving at grpc://")
            tpu = ",".join(f"grpc://{address}:{port}" for address, port in addresses)
            client = [sys.executable, "-m", "tests.helpers.remote_input", output, digits_dir, tpu]
            done = programs.run_command(on(0, list(map(str, client))))
            assert done.returncode == 0, done.stderr[-4000:]
        finally:
            for server in servers:
                server.kill()
                server.wait()
    with np.load(output) as results:
        return dict(results), is_apart


@pytest.mark.parametrize("host", range(remote_input.HOSTS))
@pytest.mark.parametrize(
    "case", ["training", "mixed", "cropped", "evaluation", "randaugment", "augmix"]
)
def test_a_remote_host_makes_the_batches_of_a_local_one_bit_for_bit(remote, digits_dir, case, host):
    results, _ = remote
    cases = remote_input.inputs(digits_dir)
    if case not in cases:
        pytest.skip("keras-cv is not installed")
    expected = remote_input.local_batches(cases[case], host)
    assert "image" in expected
    for name, value in expected.items():
        np.testing.assert_array_equal(results[f"{case}|{host}|{name}"], value, err_msg=name)


def test_training_with_the_input_of_a_remote_host_ends_with_the_same_weights(remote, digits_dir):
    results, _ = remote
    expected = remote_input.fitted(tf.distribute.get_strategy(), digits_dir)
    for name, value in expected.items():
        np.testing.assert_array_equal(results[f"fit|{name}"], value, err_msg=name)


@pytest.mark.parametrize("host", range(remote_input.HOSTS))
def test_a_dataset_of_the_user_is_made_anew_on_each_host(remote, host):
    results, _ = remote
    (x, y), *_ = remote_input.user_dataset().as_numpy_iterator()
    np.testing.assert_array_equal(results[f"dataset|{host}"], [x, y])


@pytest.mark.parametrize(
    ("case", "received", "remedy"),
    [
        ("cache", "--cache", "Leave it out."),
        ("max_bad_records", "--max_bad_records=2", "Leave it out, and prepare bad records again."),
        ("PyDataset", "a PyDataset", "Give arrays, or a tf.data.Dataset without Python functions."),
        ("generator", "a generator", "Give arrays, or a tf.data.Dataset without Python functions."),
    ],
)
def test_what_needs_python_is_refused_for_remote_hosts(remote, case, received, remedy):
    results, _ = remote
    assert str(results[case]) == (
        "Hosts that another process drives must read their input with TensorFlow's operations. "
        f"Received: {received}, which needs Python on /job:worker/replica:0/task:1. {remedy}"
    )


def test_a_host_with_another_address_cannot_run_the_python_of_this_process(remote):
    results, is_apart = remote
    if not is_apart:
        pytest.skip("the hosts share a loopback interface, through which they reach this process")
    assert re.search(
        r"remote target /job:localhost.*Connection refused", str(results["Python"]), re.S
    )


def test_pipelines_of_a_process_alone_run_in_it(mirrored):
    assert not pipeline_host.is_remote()
    found = []

    def dataset(_):
        found.append(pipeline_host.is_remote())
        return tf.data.Dataset.range(2).batch(1)

    mirrored.distribute_datasets_from_function(dataset)
    assert found == [False]

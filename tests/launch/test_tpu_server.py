"""`python -m launch.tpu_server`: its environment on GKE, and connections, on CPUs."""

import signal
import subprocess
import sys

import pytest

from launch import tpu_server
from tests.helpers import programs
from tf_lars.cluster import supervisor
from tf_lars.errors import InputError

HOSTS = "w-0.lars,w-1.lars,w-2.lars,w-3.lars"


def test_libtpu_is_told_its_place_in_the_slice():
    assert tpu_server.tpu_environment({"TPU_WORKER_HOSTNAMES": HOSTS, "TPU_WORKER_ID": "2"}) == {
        "CLOUD_TPU_TASK_ID": "2",
        "TPU_MESH_CONTROLLER_ADDRESS": "w-0.lars:8476",
        "TPU_MESH_CONTROLLER_PORT": "8476",
        "TPU_HOSTNAME_OVERRIDE": "w-2.lars",
        "TPU_LOCK_DEVICE": "true",
    }
    assert tpu_server.tpu_environment({}) == {}


@pytest.mark.parametrize("worker", ["", "4", "-1", "first"])
def test_a_place_outside_the_slice_is_refused(worker):
    with pytest.raises(InputError, match="TPU_WORKER_ID must be an index into the 4"):
        tpu_server.tpu_environment({"TPU_WORKER_HOSTNAMES": HOSTS, "TPU_WORKER_ID": worker})


CLIENT = """
import sys
import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=sys.argv[1])
tf.config.experimental_connect_to_cluster(resolver)
for task in range(2):
    with tf.device(f"/job:worker/task:{task}/device:CPU:0"):
        print(tf.reduce_sum(tf.range(5)).device)
try:
    tf.tpu.experimental.initialize_tpu_system(resolver)
except tf.errors.NotFoundError as error:
    print(error.message)
"""


@pytest.mark.slow
def test_one_client_drives_two_servers_and_they_end_when_told():
    ports = supervisor.free_ports(2)
    servers = [
        subprocess.Popen(
            programs.command("launch.tpu_server", f"--port={port}"),
            cwd=programs.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for port in ports
    ]
    try:
        for server in servers:
            assert server.stdout.readline().startswith("serving at grpc://")
        addresses = ",".join(f"grpc://127.0.0.1:{port}" for port in ports)
        done = programs.run_command([sys.executable, "-c", CLIENT, addresses])
        assert done.returncode == 0, done.stderr
        first, second, refused = done.stdout.splitlines()
        assert first == "/job:worker/replica:0/task:0/device:CPU:0"
        assert second == "/job:worker/replica:0/task:1/device:CPU:0"
        assert "TPUs not found in the cluster" in refused
        for server in servers:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        for server in servers:
            server.kill()
            server.wait()

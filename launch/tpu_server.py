"""Serves the chips of one host of a TPU slice on GKE to the coordinator, `launch.tpu`.

python -m launch.tpu_server --port=8470

TensorFlow drives a slice of several hosts from one process, through a gRPC server on each host. On
TPU VMs, that server is TensorFlow's own `start_grpc_tpu_worker`, which reads the host's index in
the slice from the machine's metadata; in pods, GKE provides it in environment variables.
"""

import dataclasses
import os
import signal
from collections.abc import Mapping

from launch.cli import app, flags
from tf_lars.cluster import proxies
from tf_lars.errors import InputError
from tf_lars.setting import check, setting, within

MESH_CONTROLLER_PORT = 8476
"""Port on the first host at which the TPU drivers of all hosts meet."""


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Settings of the server; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    port: int = setting("Port for the coordinator.", 8470, rule=within(1, 65535), group="Server")

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags of this program."""
    flags.define(ServerSettings)


def tpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that libtpu needs in a server, from those of GKE's device plugin.

    They are the ones that tensorflow/python/tools/grpc_tpu_worker.py (tensorflow-tpu 2.20) sets.
    libtpu reads the shape of the slice from GKE's variables directly. Empty without a TPU.

    Raises:
      InputError: If GKE's variables contradict each other.
    """
    names = environment.get("TPU_WORKER_HOSTNAMES", "")
    if not names:
        return {}
    hosts = names.split(",")
    worker = environment.get("TPU_WORKER_ID", "")
    if not worker.isdecimal() or int(worker) >= len(hosts):
        raise InputError(
            f"TPU_WORKER_ID must be an index into the {len(hosts)} TPU_WORKER_HOSTNAMES. Received: "
            f"{worker!r}."
        )
    return {
        "CLOUD_TPU_TASK_ID": worker,
        "TPU_MESH_CONTROLLER_ADDRESS": f"{hosts[0]}:{MESH_CONTROLLER_PORT}",
        "TPU_MESH_CONTROLLER_PORT": str(MESH_CONTROLLER_PORT),
        "TPU_HOSTNAME_OVERRIDE": hosts[int(worker)],
        "TPU_LOCK_DEVICE": "true",
    }


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    port = ServerSettings(**flags.values(ServerSettings)).port
    # TensorFlow treats SIGTERM as a preemption notice and keeps running. Its threads inherit this
    # mask, so that the signal reaches this thread.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    os.environ.update(tpu_environment(os.environ))  # before libtpu is loaded
    proxies.bypass(filter(None, os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")))
    import tensorflow as tf

    try:
        server = tf.distribute.Server(
            {"tpu_worker": [f"localhost:{port}"]}, job_name="tpu_worker", task_index=0
        )
    except tf.errors.OpError as error:
        raise InputError(f"--port must be free. Received: {port} ({error.message}).") from error
    print(f"serving at {server.target}", flush=True)
    os._exit(128 + signal.sigwait(ends))


if __name__ == "__main__":
    define()
    app.run(main)

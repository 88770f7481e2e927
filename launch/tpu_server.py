"""Serves the chips of one host of a TPU slice on GKE to the coordinator, `launch.tpu`.

python -m launch.tpu_server --port=8470

TensorFlow drives a slice of several hosts from one process, through a gRPC server on each host. On
TPU VMs, that server is TensorFlow's own `start_grpc_tpu_worker`, which reads the host's index in
the slice from the machine's metadata; in pods, GKE provides it in environment variables.
"""

import os
import signal
from collections.abc import Mapping

from absl import flags

from launch.cli import app
from tf_lars.errors import InputError

PORT = flags.DEFINE_integer("port", 8470, "Port for the coordinator.")
MESH_CONTROLLER_PORT = 8476
"""Port on the first host at which the TPU drivers of all hosts meet."""


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
    if not 0 < PORT.value < 2**16:
        raise InputError(f"--port must be from 1 to 65535. Received: {PORT.value}.")
    # TensorFlow treats SIGTERM as a preemption notice and keeps running. Its threads inherit this
    # mask, so that the signal reaches this thread.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    os.environ.update(tpu_environment(os.environ))  # before libtpu is loaded
    import tensorflow as tf

    try:
        server = tf.distribute.Server(
            {"tpu_worker": [f"localhost:{PORT.value}"]}, job_name="tpu_worker", task_index=0
        )
    except tf.errors.OpError as error:
        raise InputError(
            f"--port must be free. Received: {PORT.value} ({error.message})."
        ) from error
    print(f"serving at {server.target}", flush=True)
    os._exit(128 + signal.sigwait(ends))


if __name__ == "__main__":
    app.run(main)

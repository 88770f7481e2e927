"""What a run is computed with, for its record."""

import platform
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path

import tf_lars
from tf_lars import machine
from tf_lars.cluster.spec import Cluster

_SECONDS = 10


def describe(cluster: Cluster, replicas: int) -> dict[str, str]:
    """Returns versions, devices, cluster and commit, by name.

    Args:
      cluster: Cluster of the job.
      replicas: Number of devices that train.
    """
    found = {"tf_lars": tf_lars.__version__, "python": platform.python_version()}
    for package in ("tensorflow", "keras"):
        found[package] = metadata.version(package)
    found["devices"] = f"{replicas} x {device_name()}"
    workers = "1 worker" if cluster.num_workers == 1 else f"{cluster.num_workers} workers"
    found["cluster"] = f"{workers} ({cluster.source})"
    found["hosts"] = ", ".join(dict.fromkeys(cluster.hosts)) or socket.gethostname()
    found["system"] = platform.platform()
    found["commit"] = _commit()
    return found


def device_name() -> str:
    """Returns the name of this process's devices as their driver has it."""
    import tensorflow as tf

    tpus = tf.config.list_logical_devices("TPU")
    if tpus:
        return "TPU"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return machine.cpu_name()


def _commit() -> str:
    """Returns the commit of this checkout, marked where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown (git is missing)"
    command = (git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            encoding="utf-8",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown (not a checkout)"

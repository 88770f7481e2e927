"""The environment variables that Ray reads when it is imported."""

import os
import secrets

from launch.on_ray.ray_settings import is_address
from tf_lars.errors import InputError


def prepare(address: str | None) -> str | None:
    """Sets Ray's variables, before Ray is imported; returns the address of the cluster to use.

    No usage statistics are sent. A Ray of this machine alone listens on the loopback interface
    only, and answers only to its own processes.

    Args:
      address: Address that was asked for, or None.

    Returns:
      The address, or None for a Ray that is started for the run.

    Raises:
      InputError: $RAY_ADDRESS would be used, and is not auto or host:port.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1"}
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address and not is_address(address):
        raise InputError(
            "A launcher on Ray runs on a node of the cluster. Received: RAY_ADDRESS="
            f"{address}. Give --address=auto there, or submit the command with ray job submit."
        )
    if address is None:
        os.environ |= {
            # Ray's name for loopback addresses alone, which is its default on those systems.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Otherwise Ray would leave a token in the user's home folder.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # A process that would watch for this machine being taken away.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        }
    return address

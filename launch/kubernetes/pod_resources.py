"""CPUs and memory of pods, as Kubernetes quantities such as 16, 500m or 64Gi."""

import dataclasses
import re
from collections.abc import Mapping

from tf_lars.errors import InputError

CPUS_PER_DEVICE, GIB_PER_DEVICE = 3, 12
"""What a pod requests by default per GPU or TPU chip.

The smallest machines with an accelerator on GKE and EC2 (g2-standard-4, g4dn.xlarge: 4 CPUs and
16 GB, of which Kubernetes keeps a part) can offer it, so no pod waits for a machine in vain.
"""

QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|Ki|[MGTP]i?)?"
_DECIMAL = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTP", start=1)}


@dataclasses.dataclass(frozen=True)
class PodResources:
    """Requests and limits of a container, in addition to those of its accelerators."""

    requests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)


def pod_resources(
    devices: int,
    *,
    cpu: str | None = None,
    memory: str | None = None,
    cpu_limit: str | None = None,
    memory_limit: str | None = None,
) -> PodResources:
    """Returns the resources of a pod with accelerators.

    Args:
      devices: Number of GPUs or TPU chips of the pod.
      cpu: CPUs to reserve; by default in proportion to the devices.
      memory: Memory to reserve; by default in proportion to the devices.
      cpu_limit: Most CPUs; by default no limit, so that the input pipeline uses idle cores.
      memory_limit: Most memory; by default what is reserved, so that a pod that needs more ends
        itself, and not its neighbours on the node.

    Raises:
      InputError: A limit is below what is reserved.
    """
    requests = {
        "cpu": cpu or str(CPUS_PER_DEVICE * devices),
        "memory": memory or f"{GIB_PER_DEVICE * devices}Gi",
    }
    limits = {"memory": memory_limit or requests["memory"]}
    if cpu_limit is not None:
        limits["cpu"] = cpu_limit
    for name, limit in limits.items():
        if _amount(limit) < _amount(requests[name]):
            raise InputError(
                f"--{name}_limit must not be below what each pod requests. Received: {limit}, with "
                f"--{name}={requests[name]}."
            )
    return PodResources(requests, limits)


def _amount(quantity: str) -> float:
    match = re.fullmatch(r"([0-9.]+)(\w*)", quantity)
    assert match, quantity
    return float(match[1]) * (_DECIMAL | _BINARY)[match[2]]

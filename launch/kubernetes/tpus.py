"""TPU slices of GKE: accelerators, topologies and chips per host.

References: Google's pages "Plan TPUs in GKE" (labels, topologies and machine types) and "TPU v5e"
(hosts by topology), and AI-Hypercomputer/xpk, src/xpk/core/system_characteristics.py.
"""

import dataclasses
import math
import re

from tf_lars.errors import InputError

MOST_CHIPS = 8960
"""Chips of a v5p pod, the largest."""
_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


@dataclasses.dataclass(frozen=True)
class TpuAccelerator:
    """A value of the node label cloud.google.com/gke-tpu-accelerator.

    Attributes:
      topologies: Values of cloud.google.com/gke-tpu-topology.
      cubes: Whether AxBxC with A <= B <= C, all multiples of 4, is also a topology.
      replicas_per_chip: Replicas of TPUStrategy per chip; a v3 chip has two separate cores.
    """

    topologies: tuple[str, ...]
    cubes: bool = False
    replicas_per_chip: int = 1

    def has(self, topology: str) -> bool:
        """Returns whether the accelerator is available in this topology."""
        if topology in self.topologies:
            return True
        if not self.cubes or not re.fullmatch(r"\d{1,4}x\d{1,4}x\d{1,4}", topology):
            return False
        sides = [int(side) for side in topology.split("x")]
        if sides != sorted(sides) or math.prod(sides) > MOST_CHIPS:
            return False
        return all(side >= 4 and side % 4 == 0 for side in sides)


ACCELERATORS = {
    "tpu-v3-device": TpuAccelerator(("2x2",), replicas_per_chip=2),
    "tpu-v3-slice": TpuAccelerator(
        ("4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"), replicas_per_chip=2
    ),
    "tpu-v4-podslice": TpuAccelerator(_3D, cubes=True),
    "tpu-v5-lite-podslice": TpuAccelerator(_2D),
    "tpu-v5p-slice": TpuAccelerator(_3D, cubes=True),
    "tpu-v6e-slice": TpuAccelerator(_2D),
}
_CHIPS_PER_HOST = 4
_EIGHT_ON_ONE_HOST = "2x4"
"""Topology available both as two hosts of 4 chips and as one host of 8."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
      accelerator: Label of the nodes, a key of `ACCELERATORS`.
      topology: Label of the nodes, such as 2x4.
      num_hosts: Number of hosts, each of which is a node.
      chips_per_host: Number of google.com/tpu that each pod requests.
      num_replicas: Number of replicas of TPUStrategy on the whole slice.
    """

    accelerator: str
    topology: str
    num_hosts: int
    chips_per_host: int
    num_replicas: int


def tpu_slice(accelerator: str, topology: str, chips_per_host: int | None = None) -> Slice:
    """Returns the slice for an accelerator and a topology.

    Args:
      accelerator: A key of `ACCELERATORS`.
      topology: A topology such as 2x4, or 2x2x2 for v4 and v5p.
      chips_per_host: 4 or 8 for the topology 2x4, which has hosts of either size; by default 8.

    Raises:
      InputError: Such a slice does not exist.
    """
    kind = ACCELERATORS.get(accelerator)
    if kind is None:
        raise InputError(
            f"--tpu_accelerator must be one of {', '.join(ACCELERATORS)}. Received: "
            f"{accelerator!r}."
        )
    if not kind.has(topology):
        larger = ", or AxBxC with A <= B <= C, all multiples of 4" if kind.cubes else ""
        raise InputError(
            f"--tpu_topology for {accelerator} must be one of {', '.join(kind.topologies)}"
            f"{larger}. Received: {topology!r}."
        )
    chips = math.prod(int(side) for side in topology.split("x"))
    possible = [min(chips, _CHIPS_PER_HOST)]
    if topology == _EIGHT_ON_ONE_HOST:
        possible.insert(0, chips)
    if chips_per_host not in (None, *possible):
        raise InputError(
            f"--tpu_chips_per_host for {accelerator} {topology} must be "
            f"{' or '.join(map(str, possible))}. Received: {chips_per_host}."
        )
    per_host = chips_per_host or possible[0]
    return Slice(accelerator, topology, chips // per_host, per_host, chips * kind.replicas_per_chip)

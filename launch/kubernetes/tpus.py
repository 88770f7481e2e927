"""TPU slices of GKE: accelerators, topologies, and how many chips a host has.

Reference: Google's pages "Plan TPUs in GKE" (labels, topologies and machine types) and "TPU v5e"
(hosts by topology), and AI-Hypercomputer/xpk, src/xpk/core/system_characteristics.py.
"""

import dataclasses
import math
import re

from tf_lars.errors import InputError

_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


@dataclasses.dataclass(frozen=True)
class TpuAccelerator:
    """A value of the node label cloud.google.com/gke-tpu-accelerator.

    Attributes:
      topologies: values of cloud.google.com/gke-tpu-topology.
      cubes: whether every AxBxC of multiples of 4 with A <= B <= C is a topology too.
      replicas_per_chip: TPUStrategy's replicas on a chip; v3 has two separate cores.
    """

    topologies: tuple[str, ...]
    cubes: bool = False
    replicas_per_chip: int = 1

    def has(self, topology: str) -> bool:
        """Whether the accelerator comes in this topology."""
        if topology in self.topologies:
            return True
        if not self.cubes or not re.fullmatch(r"\d+x\d+x\d+", topology):
            return False
        sides = [int(side) for side in topology.split("x")]
        return sides == sorted(sides) and all(side >= 4 and side % 4 == 0 for side in sides)


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
"""The topology for which machines of 4 chips (two hosts) and of 8 (one host) exist."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
      accelerator, topology: the two labels of its nodes.
      num_hosts: machines, each of them a node.
      chips_per_host: what a pod asks for as google.com/tpu.
      num_replicas: of TPUStrategy on the whole slice.
    """

    accelerator: str
    topology: str
    num_hosts: int
    chips_per_host: int
    num_replicas: int


def tpu_slice(accelerator: str, topology: str, chips_per_host: int | None = None) -> Slice:
    """Returns the slice of an accelerator and a topology.

    Args:
      accelerator: a key of `ACCELERATORS`.
      topology: such as 2x4, or 2x2x2 for v4 and v5p.
      chips_per_host: 4 or 8 where 2x4 comes on either kind of machine; by default 8, one host.

    Raises:
      InputError: there is no such slice.
    """
    kind = ACCELERATORS.get(accelerator)
    if kind is None:
        raise InputError(
            f"--tpu_accelerator must be one of {', '.join(ACCELERATORS)}. Received: "
            f"{accelerator!r}."
        )
    if not kind.has(topology):
        larger = ", or AxBxC of multiples of 4 with A <= B <= C" if kind.cubes else ""
        raise InputError(
            f"--tpu_topology of {accelerator} must be one of {', '.join(kind.topologies)}{larger}. "
            f"Received: {topology!r}."
        )
    chips = math.prod(int(side) for side in topology.split("x"))
    possible = [min(chips, _CHIPS_PER_HOST)]
    if topology == _EIGHT_ON_ONE_HOST:
        possible.insert(0, chips)
    if chips_per_host not in (None, *possible):
        raise InputError(
            f"--tpu_chips_per_host of {accelerator} {topology} must be "
            f"{' or '.join(map(str, possible))}. Received: {chips_per_host}."
        )
    per_host = chips_per_host or possible[0]
    return Slice(accelerator, topology, chips // per_host, per_host, chips * kind.replicas_per_chip)

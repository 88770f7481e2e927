"""Formulas for the time of an all-reduce.

Every formula counts messages and bytes on the busiest link, where `a` is the latency of a message,
`B` the seconds per byte (1 / bandwidth), `p` the number of devices and `n` the bytes of gradients:

| algorithm | seconds |
|---|---|
| `ring` | 2(p-1)a + 2((p-1)/p)nB |
| `halving_doubling` | 2 ceil(lg p) a + 2((p-1)/p)nB |
| `tree` | ceil(lg p) (a + nB) |
| `two_level` | 2(g-1)a1 + 2((g-1)/g)nB1 within nodes of g, then a ring of p/g nodes over n/g |
| `torus` | 2(X-1)a + 2((X-1)/X)nB + 2(Y-1)a + 2((Y-1)/Y)(n/X)B on a torus of X by Y |

References: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH" (ring, halving and doubling); You et al., "ImageNet Training in Minutes" (tree: its
lg p (a + nB)); Mikami et al., arXiv:1811.05233 (2-D torus).
"""

import dataclasses
import functools
import math

from tf_lars.errors import require
from tf_lars.packaged_csv import rows

ALGORITHMS = ("ring", "halving_doubling", "tree", "two_level", "torus")

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per gradient, by the data type in which gradients are sent."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A link between devices.

    Attributes:
      name: Name in messages.
      latency: Seconds per message, a.
      seconds_per_byte: Seconds per byte, B.
      source: Source of the two numbers.
    """

    name: str
    latency: float
    seconds_per_byte: float
    source: str = ""


@functools.cache
def networks() -> dict[str, Network]:
    """Returns the networks of networks.csv by name."""
    return {
        row["name"]: Network(
            row["name"],
            float(row["latency_us"]) * 1e-6,
            float(row["ns_per_byte"]) * 1e-9,
            row["source"],
        )
        for row in rows(__package__, "networks.csv")
    }


def network(text: str) -> Network:
    """Returns a network by name, or from "LATENCY_US:GIGABITS" (1.5:200).

    Raises:
      InputError: The text is neither.
    """
    if text in networks():
        return networks()[text]
    try:
        latency, gigabits = (float(part) for part in text.split(":"))
    except ValueError:
        latency = gigabits = math.nan
    require(
        0 <= latency <= 1e9 and 1e-6 <= gigabits <= 1e9,
        "The network",
        f"one of {', '.join(networks())}, or LATENCY_US:GIGABITS, such as 1.5:200 for 1.5 "
        "microseconds and 200 Gb/s",
        text,
    )
    return Network(text, latency * 1e-6, 8e-9 / gigabits, "given by the user")


def ring(p: int, n: float, link: Network) -> float:
    """Returns 2(p-1)a + 2((p-1)/p)nB seconds."""
    return 2 * (p - 1) * link.latency + 2 * (p - 1) / p * n * link.seconds_per_byte


def halving_doubling(p: int, n: float, link: Network) -> float:
    """Returns 2 ceil(lg p) a + 2((p-1)/p)nB seconds."""
    return 2 * _rounds(p) * link.latency + 2 * (p - 1) / p * n * link.seconds_per_byte


def tree(p: int, n: float, link: Network) -> float:
    """Returns ceil(lg p) (a + nB) seconds, the model of You et al."""
    return _rounds(p) * (link.latency + n * link.seconds_per_byte)


def two_level(p: int, n: float, link: Network, node_link: Network, per_node: int) -> float:
    """Returns the seconds of a reduction within nodes of g devices, then a ring between nodes.

    2(g-1)a1 + 2((g-1)/g)nB1 within the node, then a ring of ceil(p/g) nodes over n/g bytes.
    """
    g = min(per_node, p)
    return ring(g, n, node_link) + ring(-(-p // g), n / g, link)


def torus(p: int, n: float, link: Network) -> float:
    """Returns the seconds on a torus of X by Y devices, as close to a square as p allows.

    2(X-1)a + 2((X-1)/X)nB + 2(Y-1)a + 2((Y-1)/Y)(n/X)B.
    """
    x = max(d for d in range(1, math.isqrt(p) + 1) if p % d == 0)
    return ring(x, n, link) + ring(p // x, n / x, link)


def all_reduce(
    algorithm: str,
    p: int,
    n: float,
    link: Network,
    node_link: Network | None = None,
    per_node: int = 1,
) -> float:
    """Returns the seconds of an all-reduce; 0 on one device.

    Args:
      algorithm: One of `ALGORITHMS`.
      p: Number of devices.
      n: Bytes of gradients.
      link: Link between nodes, or between all devices.
      node_link: Link within a node, for `two_level`; `link` by default.
      per_node: Devices per node, g, for `two_level`.

    Raises:
      InputError: The algorithm is unknown.
    """
    require(algorithm in ALGORITHMS, "The all-reduce", f"one of {', '.join(ALGORITHMS)}", algorithm)
    if p == 1:
        return 0.0
    if algorithm == "two_level":
        return two_level(p, n, link, node_link or link, per_node)
    flat = {"ring": ring, "halving_doubling": halving_doubling, "tree": tree, "torus": torus}
    return flat[algorithm](p, n, link)


def _rounds(p: int) -> int:
    return (p - 1).bit_length()

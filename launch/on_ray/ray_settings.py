"""Settings of a job on Ray."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launch.run.settings import TrainingSettings
from tf_lars.data import order
from tf_lars.errors import InputError, require
from tf_lars.setting import Rule, above, check, one_of, setting, within

_GROUP = "Ray"
_LARGEST = 100_000
RESERVED = ("CPU", "GPU")


def is_address(text: str) -> bool:
    """Returns whether a text is an address of Ray that a launcher can use."""
    return text == "auto" or re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", text) is not None


def _is_amount(text: str) -> bool:
    name, _, amount = text.partition("=")
    try:
        return bool(name) and name not in RESERVED and 0 < float(amount) < math.inf
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class RaySettings:
    """Settings of a job on Ray; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    address: str | None = setting(
        "Ray cluster to train on: auto for the one that runs on this machine, or the host:port of "
        "its head; this machine must be one of its nodes. By default $RAY_ADDRESS, or a Ray of "
        "this machine alone, started for the run.",
        None,
        rule=Rule(
            "auto or host:port, since a launcher on Ray runs on a node of the cluster",
            lambda address: is_address(address),
        ),
        group=_GROUP,
    )
    num_workers: int = setting(
        "Worker processes, on whichever nodes Ray places them.",
        1,
        rule=within(1, _LARGEST),
        group=_GROUP,
    )
    min_workers: int | None = setting(
        "Smallest number of workers to train with while the cluster has no resources for "
        "--num_workers; by default all of them.",
        None,
        rule=within(1, _LARGEST),
        group=_GROUP,
    )
    cpus_per_worker: float = setting(
        "CPUs that Ray reserves for a worker.", 1.0, rule=above(0, _LARGEST), group=_GROUP
    )
    gpus_per_worker: int = setting(
        "GPUs that Ray reserves for a worker, which uses all of them.",
        0,
        rule=within(0, 1024),
        group=_GROUP,
    )
    resources_per_worker: tuple[str, ...] | None = setting(
        "Other resources that Ray reserves for a worker, as NAME=AMOUNT.",
        None,
        rule=Rule("NAME=AMOUNT, with a resource other than CPU and GPU", _is_amount),
        group=_GROUP,
    )
    placement_strategy: str = setting(
        "How Ray places the workers: PACK on few nodes, SPREAD over many; STRICT_PACK on one "
        "node, STRICT_SPREAD one on each.",
        "PACK",
        rule=one_of("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"),
        group=_GROUP,
    )
    dashboard: bool = setting(
        "Starts Ray's dashboard, on this machine's loopback interface; not with --address.",
        False,
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)
        if self.min_workers is not None:
            require(
                self.min_workers <= self.num_workers,
                "--min_workers",
                f"at most --num_workers={self.num_workers}",
                self.min_workers,
            )
        if self.address and self.dashboard:
            raise InputError(
                "--dashboard is for a Ray that is started for the run. Received: --address="
                f"{self.address} too. Leave one of them out."
            )

    @property
    def resources(self) -> dict[str, float]:
        """Resources of a worker, by Ray's names."""
        found = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            found["GPU"] = self.gpus_per_worker
        for text in self.resources_per_worker or ():
            name, _, amount = text.partition("=")
            found[name] = float(amount)
        return found

    def sizes(self, settings: TrainingSettings) -> list[int]:
        """Returns the numbers of workers with which the run can train, in increasing order.

        Raises:
          InputError: The batch divides among none of them.
        """
        least = self.min_workers or self.num_workers
        found, refusal = [], None
        for count in range(least, self.num_workers + 1):
            try:
                replicas = count * max(1, self.gpus_per_worker)
                order.shares(settings.batches, replicas)
                if settings.evaluation_batch_size:
                    order.per_replica_batch_size(settings.evaluation_batch_size, replicas)
                found.append(count)
            except InputError as error:
                refusal = error
        if refusal and not found:
            raise refusal
        return found

    def check_resources(self, nodes: Sequence[Mapping[str, Any]], least: int) -> None:
        """Checks that the nodes of a cluster have the resources of the workers, used or not.

        Args:
          nodes: Result of `ray.nodes()`.
          least: Smallest number of workers.

        Raises:
          InputError: They do not have them.
        """
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        places = [self._places(node) for node in alive]
        if self.placement_strategy == "STRICT_PACK":
            found = max(places, default=0)
        elif self.placement_strategy == "STRICT_SPREAD":
            found = sum(map(bool, places))
        else:
            found = sum(places)
        if found >= least:
            return
        there = "; ".join(amounts(node, self.resources) for node in alive)
        raise InputError(
            f"The nodes of the cluster must have the resources of {least} workers with "
            f"{amounts(self.resources, self.resources)} each ({self.placement_strategy}). "
            f"Received: {len(alive)} node{'s' * (len(alive) != 1)} with {there}, enough for "
            f"{found}. "
            "Start more nodes, or ask for less: --num_workers, --min_workers, --cpus_per_worker, "
            "--gpus_per_worker, --resources_per_worker."
        )

    def _places(self, node: Mapping[str, float]) -> int:
        return min(int(node.get(name, 0) // amount) for name, amount in self.resources.items())


def amounts(resources: Mapping[str, float], names: Mapping[str, Any]) -> str:
    """Returns resources as text, those with some names: "2 CPU, 1 GPU"."""
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in names)

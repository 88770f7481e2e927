"""Who is in the job: resolves the environment to a `Cluster`."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence

from tf_lars.errors import InputError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one training job, seen from one of them.

    Attributes:
      workers: addresses "host:port" by rank; empty for a single process without a network.
      rank: this process's place in `workers`.
      source: where this was found, for messages.
    """

    workers: tuple[str, ...] = ()
    rank: int = 0
    source: str = "this machine alone"

    def __post_init__(self):
        wrong = [w for w in self.workers if not re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", w)]
        if wrong:
            raise InputError(
                f"Every worker needs an address of the form host:port. Received: {wrong[0]!r} "
                f"from {self.source}."
            )
        twice = {w for w in self.workers if self.workers.count(w) > 1}
        if twice:
            raise InputError(
                f"Every worker needs an address of its own. Received: {sorted(twice)[0]} more "
                f"than once from {self.source}."
            )
        if not 0 <= self.rank < self.num_workers:
            raise InputError(
                f"A worker's rank must be from 0 to {self.num_workers - 1}, the number of workers "
                f"less one. Received: {self.rank} from {self.source}."
            )

    @property
    def num_workers(self) -> int:
        """Number of processes in the job."""
        return max(1, len(self.workers))

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0

    def tf_config(self) -> str:
        """Returns the value of TF_CONFIG that describes this cluster."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.workers)},
                "task": {"type": "worker", "index": self.rank},
            }
        )


def local(ports: Sequence[int], rank: int = 0) -> Cluster:
    """Returns the cluster of processes on this machine, one for each port."""
    return Cluster(tuple(f"127.0.0.1:{port}" for port in ports), rank, "launch.local")


def resolve(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Finds the cluster: TF_CONFIG where it is set, otherwise this process alone.

    Raises:
      InputError: TF_CONFIG is not what TensorFlow documents, with what is wrong in it.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return Cluster()
    try:
        config = json.loads(text)
        hosts = config["cluster"]
        task = config["task"]
        kind, index = task["type"], int(task["index"])
        workers = tuple(str(host) for host in hosts["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            'TF_CONFIG must be JSON like {"cluster": {"worker": ["host:port", ...]}, "task": '
            f'{{"type": "worker", "index": 0}}}}. Received: {text[:200]} ({error!r}). Mend it, '
            "or unset it to train in this process alone."
        ) from error
    if kind != "worker" or set(hosts) != {"worker"}:
        raise InputError(
            "Synchronous training knows tasks of the type worker only. Received from TF_CONFIG: "
            f"a task of type {kind!r} in a cluster of {sorted(hosts)}. Name them all worker."
        )
    return Cluster(workers, index, "TF_CONFIG")

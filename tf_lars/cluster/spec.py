"""The processes of a job: their addresses and ranks."""

import collections
import dataclasses
import json
import re
from collections.abc import Sequence

from tf_lars.errors import InputError

ALONE = "this machine alone"
"""Source of a cluster that nothing describes."""


MOST_WORKERS = 100_000
"""Largest number of workers of a job."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one training job, seen from one of them.

    Attributes:
      workers: Addresses "host:port" by rank; empty for a single process without a network. Where
        only that of rank 0 is known, the others are "", and the workers learn them as they meet.
      rank: Index of this process in `workers`.
      source: Source of the cluster, for messages.
      local_rank: Rank of this process among those that a launcher has started on this host.
      local_size: Number of these processes, which share the host's GPUs.
    """

    workers: tuple[str, ...] = ()
    rank: int = 0
    source: str = ALONE
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self):
        given = self.workers[:1] if self.lacks_addresses else self.workers
        wrong = [w for w in given if not re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", w)]
        if wrong:
            raise InputError(
                f"Every worker needs an address of the form host:port. Received: {wrong[0]!r} "
                f"from {self.source}."
            )
        beyond = [w for w in given if not 0 < split_address(w)[1] < 2**16]
        if beyond:
            raise InputError(
                f"A port must be from 1 to 65535. Received: {beyond[0]!r} from {self.source}."
            )
        twice = [w for w, count in collections.Counter(given).items() if count > 1]
        if twice:
            raise InputError(
                f"Every worker must have a different address. Received: {twice[0]} more than "
                f"once from {self.source}."
            )
        if not 0 <= self.rank < self.num_workers:
            raise InputError(
                f"A worker's rank must be from 0 to {self.num_workers - 1} in a cluster of "
                f"{self.num_workers}. Received: {self.rank} from {self.source}."
            )
        if not 0 <= self.local_rank < self.local_size:
            raise InputError(
                f"A rank among the processes of a host must be from 0 to {self.local_size - 1}. "
                f"Received: {self.local_rank} from {self.source}."
            )

    @property
    def lacks_addresses(self) -> bool:
        """Whether only the address of rank 0 is known yet."""
        return len(self.workers) > 1 and not any(self.workers[1:])

    @property
    def num_workers(self) -> int:
        """Number of processes in the job."""
        return max(1, len(self.workers))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names or IP addresses of the workers' hosts, by rank, if they are known."""
        if self.lacks_addresses:
            return (split_address(self.workers[0])[0],)
        return tuple(split_address(worker)[0] for worker in self.workers)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files that only one process may write."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """Returns the name of a worker in messages."""
        known = self.workers[rank] if rank < len(self.workers) else ""
        return f"worker {rank} ({known})" if known else f"worker {rank}"

    def tf_config(self) -> str:
        """Returns the value of TF_CONFIG that describes this cluster."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.workers)},
                "task": {"type": "worker", "index": self.rank},
                "source": self.source,  # for `discovery`; TensorFlow ignores it
            }
        )

    def with_workers_per_host(self, count: int) -> tuple["Cluster", ...]:
        """Returns the cluster as seen by each process of this host, with `count` on every host.

        The processes of host i have ranks i * count to i * count + count - 1, and consecutive ports
        from the host's own.
        """
        workers: list[str] = []
        if self.lacks_addresses:
            workers = [self.workers[0], *[""] * (len(self.workers) * count - 1)]
        else:
            for host, port in map(split_address, self.workers):
                workers += [join_address(host, port + local) for local in range(count)]
        first = self.rank * count
        return tuple(
            dataclasses.replace(self, workers=tuple(workers), rank=first + local)
            for local in range(count)
        )


def split_address(address: str) -> tuple[str, int]:
    """Returns the host and port of "host:port", an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Returns "host:port", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_cluster(ports: Sequence[int], rank: int = 0) -> Cluster:
    """Returns the cluster of processes on this machine, one for each port."""
    return Cluster(tuple(f"127.0.0.1:{port}" for port in ports), rank, "launch.local")

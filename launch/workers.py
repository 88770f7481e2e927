"""Worker processes on this machine that run one program together."""

import os
import sys
from collections.abc import Sequence

from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import supervisor
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE


def run(module: str, arguments: Sequence[str], num_workers: int, logs: str) -> int:
    """Starts the workers, waits for them, and says what went wrong; returns the exit code.

    Args:
      module: what each runs: `python -m module arguments...`, with a TF_CONFIG of its own.
      arguments: of the program.
      num_workers: how many.
      logs: folder for what they print, a file for each; the first one's output is shown too.
    """
    ports = supervisor.free_ports(num_workers)
    failure = supervisor.run(
        [[sys.executable, "-m", module, *arguments]] * num_workers,
        [{"TF_CONFIG": clusters.local(ports, rank).tf_config()} for rank in range(num_workers)],
        logs,
        cpus=_shares_of_cores(num_workers),
    )
    if failure is None:
        return EXIT_DONE
    reason = supervisor.error_of(failure.log)
    if failure.exit_code != EXIT_BAD_INPUT:  # bad input speaks for itself
        reason = f"\n{failure}:\n{reason}"
    print(reason, file=sys.stderr)
    return failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code


def _shares_of_cores(num_workers: int) -> list[list[int]] | None:
    """Returns the cores of each worker, or None where there are fewer cores than workers.

    Two processes with a core each train 1.5 times as fast as one process on both cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return None
    return [cores[rank::num_workers] for rank in range(num_workers)]

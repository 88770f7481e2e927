"""Trains a model on this machine, in this process or in several worker processes.

python -m launch.local --model=resnet50 --data_dir=DATA --model_dir=RUN --num_workers=2
"""

import os
import sys

from absl import flags as absl_flags

from launch import app, flags, training
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import supervisor
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, InputError

NUM_WORKERS = absl_flags.DEFINE_integer(
    "num_workers",
    1,
    "1 trains in this process, on all of its GPUs; more start so many processes that train "
    "together (MultiWorkerMirroredStrategy), each with its share of the cores.",
)


def main() -> int:
    """Trains, or watches over the processes that do."""
    settings = flags.training_settings()
    num_workers = NUM_WORKERS.value
    if num_workers < 1:
        raise InputError(f"--num_workers must be at least 1. Received: {num_workers}.")
    training.check(settings, num_workers)
    try:
        if num_workers == 1:
            return training.run(settings, clusters.Cluster())
        return _supervise(settings, num_workers)
    except KeyboardInterrupt:
        print(f"\n{training.interrupted(settings)}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _supervise(settings: flags.TrainingSettings, num_workers: int) -> int:
    ports = supervisor.free_ports(num_workers)
    command = [sys.executable, "-m", "launch.worker", *flags.as_arguments(settings)]
    failure = supervisor.run(
        [command] * num_workers,
        [{"TF_CONFIG": clusters.local(ports, rank).tf_config()} for rank in range(num_workers)],
        os.path.join(settings.model_dir, training.LOGS),
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


if __name__ == "__main__":
    flags.define()
    absl_flags.adopt_module_key_flags(flags)  # --help lists them too
    app.run(main)

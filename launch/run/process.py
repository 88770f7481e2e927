"""Runs one training process of a job, and turns its outcome into an exit code."""

import sys

from launch.run import outcome, train
from launch.run.job import Connect, Job
from launch.run.settings import TrainingSettings
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import (
    EXIT_BAD_INPUT,
    EXIT_PEER_FAILED,
    EXIT_PREEMPTED,
    DivergedError,
    InputError,
    PeerFailure,
    Preempted,
)


def run(
    settings: TrainingSettings,
    cluster: Cluster,
    startup_timeout: float,
    connect: Connect | None = None,
) -> int:
    """Trains as one process of a job; returns the exit code. The arguments are those of `Job`.

    Raises:
      InputError: If a setting or an input is wrong, after the other workers have been told.
    """
    job = Job(settings, cluster, startup_timeout, connect)
    try:
        code = train.run(settings, job)
    except Preempted as stop:
        job.leave()
        if cluster.is_chief:
            print(f"\n{stop}; {outcome.how_to_resume(settings)}", flush=True)
        return EXIT_PREEMPTED
    except PeerFailure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_PEER_FAILED
    except DivergedError:
        job.leave()  # all workers know, and the chief may have to write its report
        raise
    except InputError as error:
        job.fail(error, EXIT_BAD_INPUT)
        raise
    except Exception as error:
        job.fail(error, 1)
        raise
    job.leave()
    return code

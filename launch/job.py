"""A training process's ties to the rest of its job: its peers, its supervisor, and who may stop it.

Its exit code says what should happen next: see `tf_lars.errors`.
"""

import dataclasses
import hashlib
import os
import platform
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from launch.settings import TrainingSettings, as_arguments
from models import user_model
from tf_lars.data.records import DatasetInfo
from tf_lars.distribute import supervisor
from tf_lars.distribute.cluster import Cluster
from tf_lars.distribute.membership import STARTUP_SECONDS, Membership
from tf_lars.distribute.restarts import MAX_RESTARTS
from tf_lars.errors import (
    EXIT_BAD_INPUT,
    EXIT_PEER_FAILED,
    EXIT_PREEMPTED,
    InputError,
    PeerFailure,
    Preempted,
)

if TYPE_CHECKING:
    import tensorflow as tf

Connect = Callable[[Cluster], "tf.distribute.Strategy"]

STARTS_VARIABLE = "TF_LARS_STARTS"
"""How often the workers of this job have been started before."""

JOB_VARIABLE = "TF_LARS_JOB"
"""A name that all starts of a job share: `--resume=never` starts anew once in it."""

_MAY_DIFFER = ("data_dir",)
"""Settings that need not be the same on all hosts; what is in the folder must be."""


def define() -> None:
    """Defines the flags for jobs of several processes."""
    absl_flags.DEFINE_float(
        "startup_timeout",
        STARTUP_SECONDS,
        "Seconds within which all workers must have found each other.",
    )
    absl_flags.DEFINE_integer(
        "max_restarts",
        MAX_RESTARTS,
        "How often the workers are started again after a failure, once the job has taken a step.",
    )


def check() -> None:
    """Checks the flags of `define`.

    Raises:
      InputError: one is out of its range.
    """
    values = absl_flags.FLAGS
    for name, rule, right in (
        ("startup_timeout", "above 0 seconds", values.startup_timeout > 0),
        ("max_restarts", "0 or above", values.max_restarts >= 0),
    ):
        if not right:
            raise InputError(f"--{name} must be {rule}. Received: {values[name].value}.")


def arguments(settings: TrainingSettings) -> list[str]:
    """Returns the command-line arguments of `launch.worker`."""
    return [*as_arguments(settings), f"--startup_timeout={absl_flags.FLAGS.startup_timeout}"]


class Job:
    """This process's part in a job.

    Args:
      settings: of the training.
      cluster: who is in the job.
      startup_timeout: seconds within which all workers must meet.
      connect: makes the strategy for the cluster that TensorFlow is to join; by default
        `tf_lars.distribute.strategy.create`.

    Attributes:
      name: shared by all starts of the job; None where nobody starts it again.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        cluster: Cluster,
        startup_timeout: float,
        connect: Connect | None = None,
    ):
        self.name = os.environ.get(JOB_VARIABLE)
        self._settings = settings
        self._connect = connect
        self._cluster = cluster
        self._startup_timeout = startup_timeout
        self._membership: Membership | None = None
        self._stop_requested = self._may_wait = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def join(self) -> "tf.distribute.Strategy":
        """Meets the other workers, and joins TensorFlow to theirs.

        From then on SIGTERM waits until a step is saved.

        Raises:
          InputError, PeerFailure: they do not fit together, or one is missing.
        """
        import tensorflow as tf

        from tf_lars.distribute import strategy

        connect = self._connect or strategy.create
        if self._cluster.num_workers == 1:
            joined = connect(self._cluster)
        else:
            self._membership = Membership(
                self._cluster,
                _facts(self._settings),
                timeout=self._startup_timeout,
                shared_folder=self._settings.model_dir,
                is_restart=os.environ.get(STARTS_VARIABLE, "0") != "0",
            )
            try:
                joined = connect(self._membership.tensorflow_cluster)
            except tf.errors.OpError as error:
                self.explain_lost_peer()
                raise PeerFailure(f"not all workers have joined: {error.message}") from error
            self._membership.tensorflow_has_joined()
        self._may_wait = True
        signal.signal(signal.SIGTERM, self._on_sigterm)  # TensorFlow has taken it over
        return joined

    def stop_requested(self) -> bool:
        """Returns whether this process has been asked to stop."""
        return self._stop_requested

    def has_trained(self) -> None:
        """Tells the supervisor that steps have been taken."""
        supervisor.has_trained()

    def explain_lost_peer(self) -> None:
        """Ends the process with the lost peer's name, if it is found out who that is."""
        if self._membership:
            self._membership.explain()

    def fail(self, error: BaseException, exit_code: int) -> None:
        """Tells the other workers why this one ends."""
        if self._membership:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self._membership.fail(f"{kind}{error}"[:1000], exit_code)

    def leave(self) -> None:
        """Waits until all workers are done."""
        if self._membership:
            self._membership.leave()

    def _on_sigterm(self, *_) -> None:
        if not self._may_wait:
            sys.exit(EXIT_PREEMPTED)  # there is nothing to save yet
        self._stop_requested = True


def run(
    settings: TrainingSettings,
    cluster: Cluster,
    startup_timeout: float,
    connect: Connect | None = None,
) -> int:
    """Trains as one process of a job; returns the exit code. The arguments are those of `Job`.

    Raises:
      InputError: what a person did wrong, after the other workers have been told.
    """
    from launch import training

    job = Job(settings, cluster, startup_timeout, connect)
    try:
        code = training.run(settings, cluster, job)
    except Preempted as stop:
        job.leave()
        if cluster.is_chief:
            print(f"\n{stop}; {training.how_to_go_on(settings)}", flush=True)
        return EXIT_PREEMPTED
    except PeerFailure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_PEER_FAILED
    except InputError as error:
        job.fail(error, EXIT_BAD_INPUT)
        raise
    except Exception as error:
        job.fail(error, 1)
        raise
    job.leave()
    return code


def _facts(settings: TrainingSettings) -> dict[str, str]:
    """Returns what must be the same on all workers, by its name for a person."""
    facts = {
        f"--{name}": str(value)
        for name, value in dataclasses.asdict(settings).items()
        if name not in _MAY_DIFFER
    }
    facts["data in --data_dir"] = DatasetInfo.load(settings.data_dir).fingerprint
    facts["program (SHA-256 of its files)"] = _code_sha256(settings.model)
    facts["version of Python"] = platform.python_version()
    for package in ("tensorflow", "keras"):
        facts[f"version of {package}"] = metadata.version(package)
    return facts


def _code_sha256(model: str) -> str:
    """Returns a digest of this program's files, and of the file of a user's model."""
    root = Path(__file__).resolve().parents[1]
    files = [
        path for room in ("launch", "models", "tf_lars") for path in (root / room).rglob("*.py")
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    own = user_model.file_of(model)
    if own:
        digest.update(Path(own).read_bytes())
    return digest.hexdigest()[:16]

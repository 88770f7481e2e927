"""A training process's place in its job: its peers, its supervisor, and requests to stop.

Its exit code tells the supervisor what to do next: see `tf_lars.errors`.
"""

import dataclasses
import hashlib
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launch.run import build_input
from launch.run.settings import TrainingSettings
from models import user_model
from tf_lars import files
from tf_lars.cluster import supervisor
from tf_lars.cluster.rendezvous import STARTUP_SECONDS, Rendezvous, package_versions
from tf_lars.cluster.restarts import MAX_RESTARTS
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import (
    EXIT_PREEMPTED,
    InputError,
    PeerFailure,
)
from tf_lars.setting import check, restarts, seconds_to_wait, setting, settings_of

if TYPE_CHECKING:
    import tensorflow as tf

Connect = Callable[[Cluster], "tf.distribute.Strategy"]

STARTS_VARIABLE = "TF_LARS_STARTS"
"""Environment variable: number of earlier starts of this job's workers."""

JOB_VARIABLE = "TF_LARS_JOB"
"""Environment variable: name shared by all starts of a job; only the first obeys --resume=never."""


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """Settings of a job of several processes; each field is also a flag."""

    startup_timeout: float = setting(
        "Seconds within which all workers must have registered.",
        STARTUP_SECONDS,
        rule=seconds_to_wait(),
        group="Job",
    )
    max_restarts: int = setting(
        "How many times the workers are restarted after a failure, once the job has taken a step.",
        MAX_RESTARTS,
        rule=restarts(),
        group="Job",
    )

    def __post_init__(self):
        check(self)


class Job:
    """Connects a training process to its peers and its supervisor.

    Args:
      settings: Training settings.
      cluster: Workers of the job.
      startup_timeout: Seconds within which all workers must register.
      connect: Function that creates the strategy for the cluster that TensorFlow joins; by default
        `tf_lars.create_strategy`.

    Attributes:
      cluster: Workers of the job; with all addresses once it has joined.
      name: Name shared by all starts of the job; None without a supervisor.
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
        self.cluster = cluster
        self._startup_timeout = startup_timeout
        self._rendezvous: Rendezvous | None = None
        self._stop_requested = self._may_wait = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def join(self) -> "tf.distribute.Strategy":
        """Waits for the other workers, and joins TensorFlow to theirs.

        From then on, SIGTERM takes effect only after a step has been saved.

        Raises:
          InputError, PeerFailure: If the workers disagree, or one is missing.
        """
        import tensorflow as tf

        from tf_lars import create_strategy

        connect = self._connect or create_strategy
        folder = self._settings.model_dir
        if self.cluster.num_workers == 1:
            joined = connect(self.cluster)
        else:
            self._rendezvous = Rendezvous(
                self.cluster,
                _facts(self._settings),
                timeout=self._startup_timeout,
                # A remote folder is the same wherever it is named.
                shared_folder=None if files.is_remote(folder) else folder,
                is_restart=os.environ.get(STARTS_VARIABLE, "0") != "0",
            )
            try:
                joined = connect(self._rendezvous.tensorflow_cluster)
            except tf.errors.OpError as error:
                self.explain_lost_peer()
                raise PeerFailure(f"not all workers have joined: {error.message}") from error
            self.cluster = self._rendezvous.cluster
            self._rendezvous.tensorflow_has_joined()
        self._may_wait = True
        signal.signal(signal.SIGTERM, self._on_sigterm)  # TensorFlow has replaced the handler
        return joined

    def stop_requested(self) -> bool:
        """Returns whether this process has been asked to stop."""
        return self._stop_requested

    def has_trained(self) -> None:
        """Tells the supervisor that steps have been taken."""
        supervisor.has_trained()

    def explain_lost_peer(self) -> None:
        """Ends the process with the name of the lost peer, if it can be determined."""
        if self._rendezvous:
            self._rendezvous.explain()

    def fail(self, error: BaseException, exit_code: int) -> None:
        """Tells the other workers why this one ends."""
        if self._rendezvous:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self._rendezvous.fail(f"{kind}{error}"[:1000], exit_code)

    def leave(self) -> None:
        """Waits until all workers are done."""
        if self._rendezvous:
            self._rendezvous.leave()

    def _on_sigterm(self, *_) -> None:
        if not self._may_wait:
            sys.exit(EXIT_PREEMPTED)  # there is nothing to save yet
        self._stop_requested = True


def _facts(settings: TrainingSettings) -> dict[str, str]:
    """Returns the values that must be equal on all workers, by their names in messages."""
    described = settings_of(settings)
    facts = {
        f"--{name}": str(value)
        for name, value in dataclasses.asdict(settings).items()
        if not described[name].hosts_may_differ
    }
    facts["data in --data_dir"] = build_input.description(settings).fingerprint
    facts["program (SHA-256 of its files)"] = _code_sha256(settings.model)
    facts["version of Python"] = platform.python_version()
    return facts | package_versions()


def _code_sha256(model: str) -> str:
    """Returns a digest of this program's files and of the file of a user's model."""
    root = Path(__file__).resolve().parents[2]
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

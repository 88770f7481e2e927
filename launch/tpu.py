"""Trains on a TPU, from one core to a slice of many hosts, in one process.

python -m launch.tpu --tpu=local --flagfile=RECIPE --data_dir=DATA --model_dir=RUN
python -m launch.tpu --tpu=NAME --flagfile=RECIPE --data_dir=DATA --model_dir=RUN

On a slice of several hosts, run it on one of them, with TPU_LOAD_LIBRARY=0 in the environment.
TensorFlow's servers on all hosts do the work, and every host reads --data_dir.
"""

import dataclasses

from launch.cli import dry_run, flags, launcher
from launch.run import preflight, process
from launch.run.job import JobSettings
from launch.run.settings import TrainingSettings
from tf_lars.cluster.discovery import check_alone
from tf_lars.cluster.spec import Cluster
from tf_lars.setting import Rule, check, setting


@dataclasses.dataclass(frozen=True)
class TpuSettings:
    """Settings of the TPU; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    tpu: str = setting(
        "local for the TPU of this host, the name of a Cloud TPU, or grpc://host:8470, with commas "
        "between several hosts.",
        "local",
        rule=Rule("local, a name or addresses", bool),
        group="TPU",
    )
    num_workers: int | None = setting(
        "Must be 1 if given: one process drives all hosts of a TPU.",
        None,
        rule=Rule("1, since one process drives all hosts of a TPU", lambda count: count == 1),
        group="TPU",
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.define(TpuSettings)


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Trains in this process."""
    tpu = TpuSettings(**flags.values(TpuSettings)).tpu
    check_alone("launch.tpu")
    if dry_run.wanted():
        return dry_run.show(settings, Cluster())
    preflight.check(settings, num_workers=1)

    def connect(_: Cluster):
        from tf_lars.distribute import tpu_strategy

        return tpu_strategy.create(tpu, job.startup_timeout)

    return process.run(settings, Cluster(), job.startup_timeout, connect)


if __name__ == "__main__":
    launcher.run(main, define)

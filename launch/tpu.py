"""Trains on a TPU, from one core to a slice of many hosts, in one process.

python -m launch.tpu --tpu=local --flagfile=RECIPE --data_dir=DATA --model_dir=RUN
python -m launch.tpu --tpu=NAME --flagfile=RECIPE --data_dir=DATA --model_dir=RUN

On a slice of several hosts, run it on one of them, with TPU_LOAD_LIBRARY=0 in the environment.
TensorFlow's servers on all hosts do the work, and every host reads --data_dir.
"""

from absl import flags

from launch.cli import dry_run, launcher
from launch.run import preflight, process
from launch.run.job import JobSettings
from launch.run.settings import TrainingSettings
from tf_lars.cluster.spec import Cluster
from tf_lars.errors import InputError


def define() -> None:
    """Defines the flags that only this launcher has."""
    flags.DEFINE_string(
        "tpu",
        "local",
        "local for the TPU of this host, the name of a Cloud TPU, or grpc://host:8470, with commas "
        "between several hosts.",
        module_name="TPU",
    )
    flags.DEFINE_integer(
        "num_workers",
        None,
        "Must be 1 if given: one process drives all hosts of a TPU.",
        module_name="TPU",
    )


def main(settings: TrainingSettings, job: JobSettings) -> int:
    """Trains in this process."""
    if flags.FLAGS.num_workers not in (None, 1):
        raise InputError(
            "One process drives all hosts of a TPU, so --num_workers must be 1. Received: "
            f"{flags.FLAGS.num_workers}."
        )
    if dry_run.wanted():
        return dry_run.show(settings, Cluster())
    preflight.check(settings, num_workers=1)

    def connect(_: Cluster):
        from tf_lars.distribute import tpu_strategy

        return tpu_strategy.create(flags.FLAGS.tpu, job.startup_timeout)

    return process.run(settings, Cluster(), job.startup_timeout, connect)


if __name__ == "__main__":
    launcher.run(main, define)

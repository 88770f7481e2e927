"""Trains on a TPU: one core, one host or a slice of many hosts, from one process.

python -m launch.tpu --tpu=local --flagfile=RECIPE --data_dir=DATA --model_dir=RUN
python -m launch.tpu --tpu=NAME --flagfile=RECIPE --data_dir=DATA --model_dir=RUN

On a slice of several hosts, run it on one of them, with TPU_LOAD_LIBRARY=0 in its environment;
TensorFlow's servers on all hosts do the work, and every host reads --data_dir.
"""

from absl import flags as absl_flags

from launch import dry_run, job, launcher, training
from launch.settings import TrainingSettings
from tf_lars.distribute.cluster import Cluster
from tf_lars.errors import InputError

TPU = absl_flags.DEFINE_string(
    "tpu",
    "local",
    "local: the TPU of this host; NAME of a Cloud TPU; or grpc://host:8470, of several hosts with "
    "commas.",
)
NUM_WORKERS = absl_flags.DEFINE_integer(
    "num_workers", None, "1, if anything: one process drives all hosts of a TPU."
)


def main(settings: TrainingSettings) -> int:
    """Trains."""
    if NUM_WORKERS.value not in (None, 1):
        raise InputError(
            "One process drives all hosts of a TPU, so --num_workers must be 1. Received: "
            f"{NUM_WORKERS.value}."
        )
    if dry_run.wanted():
        return dry_run.show(settings, Cluster())
    training.check(settings, num_workers=1)
    return job.run(settings, Cluster(), absl_flags.FLAGS.startup_timeout, connect=_connect)


def _connect(_: Cluster):
    from tf_lars.distribute import tpu

    return tpu.create(TPU.value, absl_flags.FLAGS.startup_timeout)


if __name__ == "__main__":
    for module in launcher.FLAG_MODULES:
        module.define()
        absl_flags.adopt_module_key_flags(module)  # --help lists them too
    launcher.run(main)

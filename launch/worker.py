"""One worker of the cluster that TF_CONFIG describes; the launchers start these."""

from absl import flags as absl_flags

from launch import app, flags, job
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import supervisor


def main() -> int:
    """Joins the cluster and trains."""
    supervisor.watched()
    settings = flags.training_settings()
    return job.run(settings, clusters.resolve(), absl_flags.FLAGS.startup_timeout)


if __name__ == "__main__":
    flags.define()
    job.define()
    for module in (flags, job):
        absl_flags.adopt_module_key_flags(module)  # --help lists them too
    app.run(main)

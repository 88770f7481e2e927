"""One worker of the cluster that TF_CONFIG describes; `launch.local` starts these."""

import sys

from absl import flags as absl_flags

from launch import app, flags, training
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import supervisor
from tf_lars.errors import EXIT_PEER_FAILED


def main() -> int:
    """Joins the cluster and trains."""
    supervisor.end_with_supervisor()
    settings = flags.training_settings()
    cluster = clusters.resolve()
    training.check(settings, cluster.num_workers)
    try:
        return training.run(settings, cluster)
    except training.PeerFailure as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_PEER_FAILED


if __name__ == "__main__":
    flags.define()
    absl_flags.adopt_module_key_flags(flags)  # --help lists them too
    app.run(main)

"""The tf.distribute strategy that joins the devices of a job."""

import tensorflow as tf

from tf_lars.cluster.spec import Cluster, resolve_cluster
from tf_lars.distribute.replicas import communication_options
from tf_lars.private_api import configure_heartbeat

HEARTBEAT_SECONDS = 90
"""After this long TensorFlow itself aborts a process whose peer is silent, and names nobody.

Ten seconds is its default; `tf_lars.cluster.rendezvous` is to find the peer first.
"""

REGISTER_SECONDS = 100
"""How long TensorFlow waits for all workers to join; its default is an hour.

Less than `tf_lars.cluster.rendezvous_server.JOIN_SECONDS`: no other thread runs meanwhile.
"""


def create_strategy(cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Returns the strategy for a cluster, over all accelerators of this process.

    Several workers: MultiWorkerMirroredStrategy, under which Keras's own `model.fit` works too
    (`tf_lars.distribute.keras_fit`). One process with several GPUs: MirroredStrategy. Otherwise
    TensorFlow's default strategy on the one device.
    It must be called before anything else touches TensorFlow's devices, because a worker
    joins the others here.

    Args:
      cluster: by default what the environment says.

    Raises:
      InputError: the environment describes no cluster that can be.
    """
    cluster = resolve_cluster() if cluster is None else cluster
    if cluster.workers:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.workers)}),
            task_type="worker",
            task_id=cluster.rank,
            rpc_layer="grpc",
        )
        configure_heartbeat(
            cluster.num_workers,
            register_seconds=REGISTER_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, communication_options())
        if cluster.num_workers > 1:
            from tf_lars.distribute import keras_fit  # patches Keras: only where that is needed

            keras_fit.install()
        return strategy
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()

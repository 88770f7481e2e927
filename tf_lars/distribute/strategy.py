"""Creates the tf.distribute strategy that joins the devices of a job."""

import tensorflow as tf

from tf_lars.cluster import proxies
from tf_lars.cluster.spec import Cluster, resolve_cluster
from tf_lars.distribute.replicas import communication_options
from tf_lars.private_api import configure_heartbeat

HEARTBEAT_SECONDS = 90
"""Seconds of a peer's silence after which TensorFlow aborts a process, without naming the peer.

The default is ten; more leaves `tf_lars.cluster.rendezvous` the time to find the peer first.
"""

REGISTER_SECONDS = 100
"""Seconds that TensorFlow waits for all workers to join; its default is an hour.

Less than `tf_lars.cluster.rendezvous_server.JOIN_SECONDS`, because no other thread runs meanwhile.
"""


def create_strategy(cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Returns the strategy for a cluster, over all accelerators of this process.

    With several workers, this is MultiWorkerMirroredStrategy, under which Keras's own `model.fit`
    works too (`tf_lars.distribute.keras_fit`). With one process and several GPUs, it is
    MirroredStrategy; otherwise TensorFlow's default strategy on the single device.

    Must be called before anything else uses TensorFlow's devices, because this is where a worker
    joins the others.

    Args:
      cluster: Cluster to join; by default the one that the environment describes.

    Raises:
      InputError: If the environment describes an invalid cluster.
    """
    cluster = resolve_cluster() if cluster is None else cluster
    if cluster.workers:
        proxies.bypass(cluster.hosts)
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
            from tf_lars.distribute import keras_fit  # patches Keras, so only if needed

            keras_fit.install()
        return strategy
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()

"""Creates the tf.distribute strategy that joins the devices of a job."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tf_lars.cluster import proxies
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.cluster.rendezvous import STARTUP_SECONDS, Rendezvous, package_versions
from tf_lars.cluster.spec import Cluster
from tf_lars.distribute.meeting import WAIT_SECONDS, watch
from tf_lars.distribute.replicas import communication_options
from tf_lars.errors import EXIT_PEER_FAILED, InputError
from tf_lars.machine import share_of_process
from tf_lars.private_api import configure_heartbeat

HEARTBEAT_SECONDS = 90
"""Seconds of a peer's silence after which TensorFlow aborts a process, without naming the peer.

The default is ten; more leaves `tf_lars.cluster.rendezvous` the time to find the peer first.
"""

REGISTER_SECONDS = 100
"""Seconds that TensorFlow waits for all workers to join; its default is an hour.

Less than `tf_lars.cluster.rendezvous_server.JOIN_SECONDS`, because no other thread runs meanwhile.
"""


def create_strategy(
    cluster: Cluster | None = None,
    *,
    wait_seconds: float = WAIT_SECONDS,
    startup_timeout: float = STARTUP_SECONDS,
) -> tf.distribute.Strategy:
    """Returns the strategy for a cluster, over all accelerators of this process.

    With several workers, this is MultiWorkerMirroredStrategy, under which Keras's own `model.fit`
    works too (`tf_lars.distribute.keras_fit`); models made outside its scope stay as Keras has
    them. With one process and several GPUs, it is MirroredStrategy; otherwise TensorFlow's default
    strategy on the single device. Where a launcher such as torchrun or mpirun has started several
    processes on a host, each takes its share of the host's GPUs.

    Must be called before anything else uses TensorFlow's devices, because this is where a worker
    joins the others.

    Args:
      cluster: Cluster to join; by default the one that the environment describes.
      wait_seconds: How long Keras's `fit`, `evaluate` and `predict` wait for another worker at a
        step, the callbacks of that worker included, before they end with an error.
      startup_timeout: Seconds within which workers that only know the address of the first must
        have met there.

    Raises:
      InputError: The environment describes an invalid cluster, or says that there are several
        processes and not how they find each other; TensorFlow is already in use; or not all
        workers have met in time.
      PeerFailure: Another worker was lost meanwhile.
    """
    cluster = resolve_cluster() if cluster is None else cluster
    _use_share_of_gpus(cluster)
    with contextlib.ExitStack() as met:
        if cluster.lacks_addresses:
            cluster = met.enter_context(_introduced(cluster, startup_timeout))
        return _create(cluster, wait_seconds)


@contextlib.contextmanager
def _introduced(cluster: Cluster, startup_timeout: float) -> Iterator[Cluster]:
    """Yields the cluster with all addresses; the workers part when all have left this context."""
    member = Rendezvous(cluster, package_versions(), timeout=startup_timeout, shared_folder=None)
    try:
        yield member.tensorflow_cluster
    except BaseException as error:
        member.fail(f"{type(error).__name__}: {error}"[:1000], EXIT_PEER_FAILED)
        raise
    member.tensorflow_has_joined()
    member.leave()


def _use_share_of_gpus(cluster: Cluster) -> None:
    """Hides the GPUs of the other processes of this host."""
    if cluster.local_size > 1:
        gpus = tf.config.list_physical_devices("GPU")
        own = share_of_process(gpus, cluster.local_rank, cluster.local_size)
        if own != gpus:
            tf.config.set_visible_devices(own, "GPU")


def _create(cluster: Cluster, wait_seconds: float) -> tf.distribute.Strategy:
    """Returns the strategy for a cluster whose addresses are known."""
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
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, communication_options())
        except RuntimeError as error:
            if "at program startup" not in str(error):
                raise
            raise InputError(
                "A worker must join the others before it uses TensorFlow. Received: a process that "
                "has already created tensors or variables, for example those of a model. Call "
                "create_strategy() first."
            ) from error
        if cluster.num_workers > 1:
            from tf_lars.distribute import keras_fit  # patches Keras, so only if needed

            keras_fit.install()
            watch.seconds = wait_seconds
        return strategy
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()

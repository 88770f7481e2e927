"""The tf.distribute strategy that joins the devices of a job."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from tf_lars.data.tuner import without_tuner
from tf_lars.distribute.cluster import Cluster, resolve

HEARTBEAT_SECONDS = 90
"""After this long TensorFlow itself aborts a process whose peer is silent, and names nobody.

Ten seconds is its default; `tf_lars.distribute.membership` is to find the peer first.
"""

REGISTER_SECONDS = 100
"""How long TensorFlow waits for all workers to join; its default is an hour.

Less than `tf_lars.distribute.hub.JOIN_SECONDS`: no other thread runs meanwhile.
"""

BYTES_PER_PACK = 32 * 2**20
"""Gradients are all-reduced in packs of at most this size.

On two CPU processes over loopback, 102 MB in 160 tensors took 678 ms with packs of 32 MiB, and
1,808 ms or more with TensorFlow's default.
"""


def communication_options(
    bytes_per_pack: int = BYTES_PER_PACK,
) -> tf.distribute.experimental.CommunicationOptions:
    """Returns how gradients are all-reduced: NCCL among GPUs, a ring among CPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    implementation = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.experimental.CommunicationOptions(
        bytes_per_pack=bytes_per_pack,
        implementation=implementation.NCCL if gpus else implementation.RING,
    )


def distribute(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterable:
    """Returns a distributed dataset of which the caller takes no more than there is.

    For a dataset that may end, TensorFlow asks all workers before each step whether they still
    have a batch, and forgets the batch's static size. One that repeats never ends.
    """
    return _Batches(
        strategy.distribute_datasets_from_function(lambda context: dataset(context).repeat())
    )


class _Batches:
    """A distributed dataset whose iterators can be let go at once."""

    def __init__(self, dataset: Iterable):
        self._dataset = dataset

    def __iter__(self) -> Iterator:
        with _device_datasets_without_tuner():
            return iter(self._dataset)


@contextlib.contextmanager
def _device_datasets_without_tuner() -> Iterator[None]:
    """Switches the tuner off in the datasets that hand each device its batches.

    They are TensorFlow's own (tensorflow/python/data/ops/multi_device_iterator_ops.py), and take
    no options of the dataset that is distributed.
    """
    create = multi_device_iterator_ops._create_device_dataset
    multi_device_iterator_ops._create_device_dataset = lambda *args: without_tuner(create(*args))
    try:
        yield
    finally:
        multi_device_iterator_ops._create_device_dataset = create


def agree(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """Returns the means of some numbers over the workers, bit for bit the same on all."""
    if strategy.num_replicas_in_sync == 1:
        return list(values)
    return _mean_over_replicas(strategy, tf.constant(values, tf.float32)).numpy().tolist()


def of_first_worker(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the whole number that the first worker gives, on all; each must call this."""
    if strategy.num_replicas_in_sync == 1:
        return value

    run = tf.function(lambda own: strategy.run(of_first_replica, args=([own],)))
    return int(strategy.experimental_local_results(run(tf.constant(value))[0])[0])


def of_first_replica(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the int32 tensors of the first replica, on all; called by each within `run`."""
    context = tf.distribute.get_replica_context()
    is_first = tf.cast(context.replica_id_in_sync_group == 0, tf.int32)
    return context.all_reduce("SUM", [value * is_first for value in values])


@tf.function
def _mean_over_replicas(strategy, value):
    return strategy.reduce("MEAN", strategy.run(tf.identity, args=(value,)), axis=None)


def create(cluster: Cluster | None = None) -> tf.distribute.Strategy:
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
    cluster = resolve() if cluster is None else cluster
    if cluster.workers:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.workers)}),
            task_type="worker",
            task_id=cluster.rank,
            rpc_layer="grpc",
        )
        _let_others_find_lost_workers(cluster.num_workers)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, communication_options())
        if cluster.num_workers > 1:
            from tf_lars.distribute import keras_fit  # patches Keras: only where that is needed

            keras_fit.install()
        return strategy
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _let_others_find_lost_workers(num_workers: int) -> None:
    """Sets TensorFlow's heartbeat as MultiWorkerMirroredStrategy would, but slower.

    The strategy keeps a service that is configured already
    (tensorflow/python/distribute/collective_all_reduce_strategy.py).
    """
    from tensorflow.python.eager import context

    config = tf.compat.v1.ConfigProto().experimental.coordination_config
    config.coordinated_job_list.add(name="worker", num_tasks=num_workers)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=REGISTER_SECONDS * 1000,
        heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=list(config.coordinated_job_list),
    )

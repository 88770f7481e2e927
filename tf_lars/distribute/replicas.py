"""Collective operations of replicas and workers: distributed data, means and broadcasts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_lars.data.autotune import without_autotune
from tf_lars.defaults import BYTES_PER_PACK
from tf_lars.private_api import device_datasets_changed_by


def communication_options(
    bytes_per_pack: int = BYTES_PER_PACK,
) -> tf.distribute.experimental.CommunicationOptions:
    """Returns the options of the gradients' all-reduce: NCCL among GPUs, a ring among CPUs."""
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
    """Returns a distributed dataset, which the caller must not read past its end.

    For a dataset that may end, TensorFlow asks all workers before each step whether they still
    have a batch, and loses the batch's static size. Repeating the dataset avoids both.
    """
    return _Batches(
        strategy.distribute_datasets_from_function(lambda context: dataset(context).repeat())
    )


class _Batches:
    """Distributed dataset whose iterators are released without delay."""

    def __init__(self, dataset: Iterable):
        self._dataset = dataset

    def __iter__(self) -> Iterator:
        with device_datasets_changed_by(without_autotune):
            return iter(self._dataset)


def is_first_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    is_multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return not is_multi_worker or resolver is None or resolver.task_id in (None, 0)


def mean_over_workers(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """Returns the mean of each number over the workers, bit for bit the same on all of them."""
    if strategy.num_replicas_in_sync == 1:
        return list(values)
    return _mean_over_replicas(strategy, tf.constant(values, tf.float32)).numpy().tolist()


def gather_from_workers(
    strategy: tf.distribute.Strategy, values: Sequence[float]
) -> list[list[float]]:
    """Returns the numbers of each worker, in order, bit for bit the same on all of them.

    They pass through float32.
    """
    workers = num_workers(strategy)
    if workers == 1:
        return [list(values)]
    resolver = strategy.cluster_resolver
    table = np.zeros([workers, len(values)], np.float32)
    table[resolver.task_id] = values
    means = mean_over_workers(strategy, table.ravel().tolist())
    # All others have added zeros.
    return (workers * np.array(means).reshape(table.shape)).tolist()


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train."""
    replicas = strategy.num_replicas_in_sync
    return 1 if replicas == 1 else replicas // len(strategy.extended.worker_devices)


def broadcast_from_chief(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the chief's integer on all workers, each of which must call this."""
    if strategy.num_replicas_in_sync == 1:
        return value

    results = _of_first_replica(strategy, tf.constant(value))
    return int(strategy.experimental_local_results(results)[0])


def broadcast_from_first_replica(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the first replica's int32 tensors on all replicas, each of which must call this."""
    context = tf.distribute.get_replica_context()
    is_first = tf.cast(context.replica_id_in_sync_group == 0, tf.int32)
    return context.all_reduce("SUM", [value * is_first for value in values])


@tf.function
def _of_first_replica(strategy, value):
    return strategy.run(broadcast_from_first_replica, args=([value],))[0]


@tf.function
def _mean_over_replicas(strategy, value):
    return strategy.reduce("MEAN", strategy.run(tf.identity, args=(value,)), axis=None)


def slice_batch(batch: Any, i: tf.Tensor, size: int) -> Any:
    """Returns the i-th slice of `size` examples of a batch."""

    def cut(t):
        if t is None:
            return None
        # XLA knows the size of this slice; that of t[a:b] depends on a and b.
        begin = tf.concat([[i * size], tf.zeros([t.shape.rank - 1], tf.int32)], 0)
        return tf.slice(t, begin, [size, *t.shape[1:]])

    return tf.nest.map_structure(cut, batch)

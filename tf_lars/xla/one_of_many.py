"""A strategy for one replica of many, whose all-reduces are XLA's.

It makes the program that each replica of a job runs, on a machine that has none of them. Its
all-reduces are `CollectiveReduceV2`, which XLA compiles to an all-reduce over all replicas; outside
XLA they cannot run.

Relies on private API of TensorFlow 2.19 to 2.21: the three methods of `OneDeviceStrategy.extended`
that are overridden here.
"""

from typing import Any

import tensorflow as tf

from tf_lars.errors import require
from tf_lars.optimizers.lars_rule import densify

_Extended: type = type(tf.distribute.OneDeviceStrategy("/cpu:0").extended)


class _ExtendedOneOfMany(_Extended):
    """What a strategy with one local replica does, except for all-reduces."""

    def __init__(self, strategy: tf.distribute.Strategy, num_replicas: int):
        super().__init__(strategy, "/cpu:0")
        self._replicas = num_replicas
        self.all_reduced: list[tuple[int, int]] = []

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._replicas

    def _use_merge_call(self) -> bool:
        return False  # each replica reduces by itself, as on TPUs

    def _replica_ctx_all_reduce(self, reduce_op, value, options=None) -> Any:
        """Sums over the replicas, in one all-reduce for each type."""
        flat = [densify(v, v.shape) for v in tf.nest.flatten(value)]
        sums: dict[int, tf.Tensor] = {}
        for dtype in dict.fromkeys(v.dtype for v in flat):
            chosen = [i for i, v in enumerate(flat) if v.dtype == dtype]
            sizes = [flat[i].shape.num_elements() for i in chosen]
            joined = tf.concat([tf.reshape(flat[i], [-1]) for i in chosen], 0)
            self.all_reduced.append((sum(sizes) * dtype.size, len(sizes)))
            summed = tf.raw_ops.CollectiveReduceV2(
                input=joined,
                group_size=self._replicas,
                group_key=1,
                instance_key=1,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
            )
            for i, part in zip(chosen, tf.split(summed, sizes), strict=True):
                sums[i] = tf.reshape(part, flat[i].shape)
        results = [sums[i] for i in range(len(flat))]
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            results = [result / self._replicas for result in results]
        return tf.nest.pack_sequence_as(value, results)


class OneOfMany(tf.distribute.Strategy):
    """Strategy of the first of several replicas.

    Args:
      num_replicas: Number of replicas in the job.

    Raises:
      InputError: The number is not a positive integer.
    """

    def __init__(self, num_replicas: int):
        is_count = isinstance(num_replicas, int) and num_replicas >= 1
        require(is_count, "num_replicas", "at least 1", num_replicas)
        super().__init__(_ExtendedOneOfMany(self, num_replicas))

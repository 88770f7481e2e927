"""Random states of a model's layers, such as Dropout's."""

import keras
import tensorflow as tf

from tf_lars.distribute.replicas import broadcast_from_first_replica
from tf_lars.private_api import random_states

_APART = 0x9E3779B1  # 2**32 divided by the golden ratio: spreads the numbers of replicas


def differ_by_replica(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives each replica random states of its own; those of the first replica stay.

    Keras starts all replicas alike, and example i of each of them would be given the same mask.
    The first replica's are those in a checkpoint, so a run that goes on draws what it would have
    drawn.

    Args:
      model: built; its layers draw from `keras.random.SeedGenerator`.
      strategy: the one in whose scope the model was made.
    """
    states = random_states(model)
    if not states or strategy.num_replicas_in_sync == 1:
        return

    def replica():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        # TPUs sum no 64-bit integers, other devices no unsigned ones: the halves are summed.
        own = [tf.bitcast(tf.identity(state), tf.int32) for state in states]
        of_first = broadcast_from_first_replica(own)
        for state, halves in zip(states, of_first, strict=True):
            further = tf.stack([number * _APART % 2**31, 0])
            dtype = tf.as_dtype(state.dtype)
            state.assign(tf.bitcast(halves, dtype) + tf.cast(further, dtype))

    tf.function(lambda: strategy.run(replica))()

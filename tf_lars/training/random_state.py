"""Random states of a model's layers, such as those of Dropout."""

import keras
import tensorflow as tf

from tf_lars.distribute.replicas import broadcast_from_first_replica
from tf_lars.private_api import finish_assignments, random_states

_APART = 0x9E3779B1  # 2**32 divided by the golden ratio: spreads replica numbers


def differ_by_replica(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives each replica its own random states; those of the first replica stay unchanged.

    Keras starts all replicas with the same states, so example i of each replica would get the same
    mask. A checkpoint holds the first replica's states, so a resumed run draws the same numbers as
    an uninterrupted one.

    Args:
      model: Built model whose layers draw from `keras.random.SeedGenerator`.
      strategy: Strategy in whose scope the model was created.
    """
    states = random_states(model)
    if not states or strategy.num_replicas_in_sync == 1:
        return

    def replica():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        # TPUs cannot sum 64-bit integers, nor other devices unsigned ones, so halves are summed.
        own = [tf.bitcast(tf.identity(state), tf.int32) for state in states]
        of_first = broadcast_from_first_replica(own)
        for state, halves in zip(states, of_first, strict=True):
            further = tf.stack([number * _APART % 2**31, 0])
            dtype = tf.as_dtype(state.dtype)
            state.assign(tf.bitcast(halves, dtype) + tf.cast(further, dtype))

    finish_assignments()  # of a restored checkpoint
    tf.function(lambda: strategy.run(replica))()

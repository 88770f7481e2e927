"""results.json: the results of a run for other programs."""

import hashlib
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_lars import files


def weights_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 of all weights of a model, the trainable ones first.

    Each weight is hashed as little-endian float32 values in C order.
    """
    digest = hashlib.sha256()
    for weight in [*model.trainable_weights, *model.non_trainable_weights]:
        digest.update(np.asarray(weight.numpy(), "<f4").tobytes())
    return digest.hexdigest()


def gather(strategy: tf.distribute.Strategy, row: np.ndarray) -> np.ndarray:
    """Returns the rows of all replicas, in order; every worker must call this.

    Args:
      strategy: Strategy of the replicas.
      row: Row of this process, int32 `[n]`.

    Returns:
      Rows of all replicas, int32 `[replicas, n]`.
    """
    own = tf.constant(row[np.newaxis])

    def gather_in_replica(value):
        # MirroredStrategy would gather a tensor from outside the replica only once.
        return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)

    replicas = tf.function(lambda: strategy.run(gather_in_replica, args=(own,)))()
    return strategy.experimental_local_results(replicas)[0].numpy()


def gather_digests(strategy: tf.distribute.Strategy, digest: str) -> list[str]:
    """Returns the hexadecimal digests of all replicas, in order; every worker must call this."""
    rows = gather(strategy, np.array(list(bytes.fromhex(digest)), np.int32))
    return [bytes(row.tolist()).hex() for row in rows]


def table(results: Mapping[str, object]) -> str:
    """Returns the results as text, with a name and a value per line."""
    lines = []
    for name, value in results.items():
        if isinstance(value, list):
            continue
        text = f"{value:,.4f}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<18} {text}")
    return "\n".join(lines)


def write(path: str, results: Mapping[str, object]) -> None:
    """Writes the results as JSON, atomically."""
    files.write_json(path, results)

"""results.json: what a run reached, in numbers that other programs read."""

import hashlib
import json
import os
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf


def weights_sha256(model: keras.Model) -> str:
    """Returns the SHA-256 over all trainable and then all non-trainable weights, in order.

    Each weight counts as its float32 values in little-endian bytes, C order.
    """
    digest = hashlib.sha256()
    for weight in [*model.trainable_weights, *model.non_trainable_weights]:
        digest.update(np.asarray(weight.numpy(), "<f4").tobytes())
    return digest.hexdigest()


def gather(strategy: tf.distribute.Strategy, row: np.ndarray) -> np.ndarray:
    """Returns the rows of all replicas, in order; every worker must call this.

    Args:
      strategy: joins the replicas.
      row: int32 `[n]`, of this process.

    Returns:
      int32 `[replicas, n]`.
    """
    own = tf.constant(row[np.newaxis])

    def gather_in_replica(value):
        # Under MirroredStrategy, a tensor that is not the replica's own counts once only.
        return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)

    replicas = tf.function(lambda: strategy.run(gather_in_replica, args=(own,)))()
    return strategy.experimental_local_results(replicas)[0].numpy()


def gather_digests(strategy: tf.distribute.Strategy, digest: str) -> list[str]:
    """Returns the hexadecimal digests of all replicas, in order; every worker must call this."""
    rows = gather(strategy, np.array(list(bytes.fromhex(digest)), np.int32))
    return [bytes(row.tolist()).hex() for row in rows]


def table(results: Mapping[str, object]) -> str:
    """Returns the results as lines of a name and a value."""
    lines = []
    for name, value in results.items():
        if isinstance(value, list):
            continue
        text = f"{value:,.4f}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<18} {text}")
    return "\n".join(lines)


def write(path: str, results: Mapping[str, object]) -> None:
    """Writes the results as JSON, whole or not at all."""
    partial = f"{path}.partial"
    with open(partial, "w") as file:
        json.dump(dict(results), file, indent=2)
        file.write("\n")
    os.replace(partial, path)

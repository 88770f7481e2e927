"""One of two real workers with Keras 2: python -m tests.helpers.addons_two_workers <folder>."""

import json
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

from tests.helpers import addons_stack, golden
from tests.helpers.addons_stack import LARS, keras

ARGUMENTS = {"learning_rate": 0.5, "weight_decay": 1e-3, "global_clipnorm": 0.5}


def fit(strategy, batch_size):
    """Returns the weights after two epochs over unshuffled batches, split among the workers."""
    x, y = addons_stack.data()
    keras.utils.set_random_seed(0)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    with strategy.scope():
        model = keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(LARS(**ARGUMENTS), loss)
    worker = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
    replicas = strategy.num_replicas_in_sync
    # Each of two workers takes every second example: its part of every global batch.
    data = tf.data.Dataset.from_tensor_slices((x[worker::replicas], y[worker::replicas]))
    data = data.batch(batch_size // replicas).with_options(options)
    # Without sharding, Keras 2 takes each worker's batch as it is.
    distributed = strategy.distribute_datasets_from_function(lambda _: data.repeat())
    model.fit(distributed, epochs=2, steps_per_epoch=len(x) // batch_size, verbose=0)
    return model.get_weights()


def golden_weights(strategy):
    """Returns the weights of all configurations after 20 steps; the workers' shares add up to g."""
    worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    sets = {}
    with strategy.scope():
        for config in golden.configs():
            named = zip(golden.names(), golden.initial_weights(), strict=True)
            variables = [tf.Variable(w, name=name) for name, w in named]
            optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
            optimizer._create_all_weights(variables)
            sets[config] = optimizer, variables

    @tf.function
    def step(shares):
        def replica_step():
            # Arguments are not on a device yet, and a reduction needs one.
            here = [tf.identity(share) for share in shares]
            for optimizer, variables in sets.values():
                optimizer.apply_gradients(zip(here, variables, strict=True))

        strategy.run(replica_step)

    for s, rate in enumerate(golden.learning_rates()):
        for optimizer, _ in sets.values():
            optimizer.learning_rate = rate
        factor = np.float32(2.0 if worker == 0 else -1.0)
        step([tf.constant(factor * g) for g in golden.gradients(s)])
    return {
        f"golden|{config}|{name}": variable.numpy()
        for config, (_, variables) in sets.items()
        for name, variable in zip(golden.names(), variables, strict=True)
    }


def main():
    worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    results = {f"fit|{i}": w for i, w in enumerate(fit(strategy, 16))}
    results.update(golden_weights(strategy))
    np.savez(pathlib.Path(sys.argv[1]) / f"worker{worker}.npz", **results)


if __name__ == "__main__":
    main()

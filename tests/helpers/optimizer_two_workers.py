"""One of two real workers, with TF_CONFIG set: python -m tests.helpers.optimizer_two_workers DIR

Takes every step that test_lars_two_workers.py checks and writes the numbers to
DIR/worker<i>.npz; the test compares them.
"""

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import golden
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.loss_scale import LossScaleOptimizer

SHAPES = ((4, 3), (3,), (3, 2))
STEPS = 7
SETTINGS = {
    "plain": {"weight_decay": 1e-2},
    "clipnorm": {"clipnorm": 0.5, "exclude_from_layer_adaptation": [""]},
    "global_clipnorm": {"global_clipnorm": 0.5, "exclude_from_layer_adaptation": [""]},
    "ema": {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
}


def weights():
    rng = np.random.default_rng(0)
    return [np.float32(rng.standard_normal(shape)) for shape in SHAPES]


def gradients(worker, step):
    rng = np.random.default_rng(10 + 2 * step + worker)
    return [np.float32(0.3 * rng.standard_normal(shape)) for shape in SHAPES]


def _golden(strategy, worker):
    """Trains all configurations in each step; the workers' shares 2*g and -g add up to g."""
    sets = {}
    with strategy.scope():
        for config in golden.configs():
            named = zip(golden.names(), golden.initial_weights(), strict=True)
            variables = [tf.Variable(w, name=n) for n, w in named]
            optimizer = LARS(learning_rate=0.0, **golden.arguments(config))
            optimizer.build(variables)
            sets[config] = optimizer, variables

    @tf.function
    def step(shares):
        def replica_step():
            # Arguments are not on a device yet, and a reduction needs one.
            gradients_here = [tf.identity(share) for share in shares]
            for optimizer, variables in sets.values():
                optimizer.apply(gradients_here, variables)

        strategy.run(replica_step)

    results = {}
    for s, rate in enumerate(golden.learning_rates()):
        for optimizer, _ in sets.values():
            optimizer.learning_rate = rate
        factor = np.float32(2.0 if worker == 0 else -1.0)
        step([tf.constant(factor * g) for g in golden.gradients(s)])
        if s + 1 in golden.manifest()["kept_steps"]:
            for config, (_, variables) in sets.items():
                for name, variable in zip(golden.names(), variables, strict=True):
                    results[f"golden|{config}|{s + 1}|{name}"] = variable.numpy()
    return results


def _step(strategy, optimizer, variables):
    @tf.function
    def step(*shares):
        strategy.run(lambda: optimizer.apply([tf.identity(g) for g in shares], variables))

    return step


def _settings(strategy, worker):
    results = {}
    for name, arguments in SETTINGS.items():
        with strategy.scope():
            variables = [keras.Variable(w) for w in weights()]
            optimizer = LARS(1.0, **arguments)
            optimizer.build(variables)

        step = _step(strategy, optimizer, variables)
        for s in range(STEPS):
            step(*map(tf.constant, gradients(worker, s)))
        for i, variable in enumerate(variables):
            results[f"settings|{name}|{i}"] = variable.numpy()
    return results


def _sparse(strategy, worker):
    with strategy.scope():
        table = keras.Variable(np.ones((4, 2), np.float32))
        optimizer = LARS(1.0, weight_decay=0.01)
        optimizer.build([table])
    rows = [0, 0] if worker == 0 else [0, 2]

    @tf.function
    def step():
        slices = tf.IndexedSlices(tf.ones((2, 2)), tf.constant(rows), tf.constant([4, 2]))
        strategy.run(lambda: optimizer.apply([slices], [table]))

    step()
    return {"sparse": table.numpy()}


def _loss_scale(strategy, worker):
    """Trains in float16; worker 1 gets an Inf in step 1, and worker 0 a NaN in step 3."""
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policy)])
        optimizer = LossScaleOptimizer(LARS(1.0), initial_scale=64.0)
        model.compile(optimizer, "mse", jit_compile=False)
        optimizer.build(model.trainable_variables)
    assert model.optimizer is optimizer

    @tf.function
    def step(x):
        def replica_step():
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_mean(tf.cast(model(x), tf.float32) ** 2))
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        strategy.run(replica_step)

    rng = np.random.default_rng(worker)
    kernels, scales = [], []
    for s in range(6):
        x = np.float32(rng.standard_normal((8, 4)))
        if (s, worker) in ((1, 1), (3, 0)):
            x[2, 1] = np.inf if worker else np.nan
        step(tf.constant(x))
        kernels.append(model.trainable_variables[0].numpy())
        scales.append(float(optimizer.dynamic_scale.numpy()))
    return {
        "loss_scale|kernels": np.stack(kernels),
        "loss_scale|scales": np.array(scales),
        "loss_scale|iterations": optimizer.iterations.numpy(),
    }


def main():
    worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    results = {}
    for part in (_golden, _settings, _sparse, _loss_scale):
        results.update(part(strategy, worker))
    np.savez(pathlib.Path(sys.argv[1]) / f"worker{worker}.npz", **results)


if __name__ == "__main__":
    main()

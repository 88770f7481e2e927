"""Runs of batch normalisation in groups, for one process, logical CPUs, or a worker of a cluster.

`python -m tests.helpers.batch_norm_cases FOLDER CASE...` runs cases on four logical CPUs, or as the
worker that TF_CONFIG names, and writes `FOLDER/worker<rank>.npz`.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import training_cases
from tests.helpers.paths import ROOT
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.distribute.grouped_batch_norm import group_batch_norm
from tf_lars.distribute.strategy import create_strategy

BATCH, EXAMPLES = 128, 640


class SlicedBatchNorm(keras.layers.Layer):
    """An independent implementation: slices of a batch, normalised one after the other."""

    def __init__(self, group_size, momentum, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.group_size, self.momentum, self.epsilon = group_size, momentum, epsilon

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros", name="beta")
        kwargs = {"shape": shape[-1:], "trainable": False}
        self.mean = self.add_weight(initializer="zeros", name="mean", **kwargs)
        self.variance = self.add_weight(initializer="ones", name="variance", **kwargs)

    def call(self, x, training=False):
        if not training:
            scale = self.gamma / tf.sqrt(self.variance + self.epsilon)
            return (x - self.mean) * scale + self.beta
        parts, means, variances = [], [], []
        for start in range(0, x.shape[0], self.group_size):
            part = x[start : start + self.group_size]
            mean = tf.reduce_mean(part, [0, 1, 2])
            variance = tf.reduce_mean((part - mean) ** 2, [0, 1, 2])
            parts.append((part - mean) / tf.sqrt(variance + self.epsilon) * self.gamma + self.beta)
            means.append(mean)
            variances.append(variance)
        for moving, values in ((self.mean, means), (self.variance, variances)):
            now = sum(values) / len(values)
            moving.assign(moving + (1 - self.momentum) * (now - moving))
        return tf.concat(parts, 0)


def network():
    """Returns a small network with two batch normalisations, one of them in a nested model."""
    keras.utils.set_random_seed(0)
    nested = keras.Sequential([keras.Input((6, 6, 8)), _norm(), keras.layers.ReLU()])
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 128, offset=-1.0),
            keras.layers.Conv2D(8, 3, use_bias=False),
            nested,
            keras.layers.Conv2D(16, 3, strides=2, use_bias=False),
            _norm(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def _norm():
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3)


def grouped(group_size, build=network):
    """Returns a function that builds the network with groups."""

    def built():
        model = build()
        assert group_batch_norm(model, group_size)
        return model

    return built


def sliced(group_size):
    """Returns a function that builds the network with the independent implementation."""

    def replaced(layer):
        if isinstance(layer, keras.Sequential):
            return keras.models.clone_model(layer, clone_function=replaced)
        if isinstance(layer, keras.layers.BatchNormalization):
            return SlicedBatchNorm(group_size, layer.momentum, layer.epsilon)
        return type(layer).from_config(layer.get_config())

    def built():
        plain = network()
        model = keras.models.clone_model(plain, clone_function=replaced)
        model.set_weights(plain.get_weights())
        return model

    return built


def synchronised():
    """Returns the network with Keras's own normalisation by the whole batch."""
    model = network()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    return model


def trained(strategy, build, **arguments):
    """Returns all weights after 20 LARS steps, and the evaluation of the end."""
    t = training_cases.trainer(strategy, build, **arguments)
    history = t.fit(
        ArrayTrainingInput(*training_cases.images(EXAMPLES), BATCH),
        epochs=4,
        validation_data=ArrayEvaluationInput(*training_cases.images(50, seed=1), BATCH),
    )
    kinds = {"w": t.model.trainable_weights, "moving": t.model.non_trainable_weights}
    weights = {
        f"{kind}{i:02d}": weight.numpy()
        for kind, of_kind in kinds.items()
        for i, weight in enumerate(of_kind)
    }
    return weights | {"val_loss": history[-1]["val_loss"]}


def estimated(strategy, build, **arguments):
    """Returns statistics estimated from an epoch under the initial weights."""
    t = training_cases.trainer(strategy, build, **arguments)
    data = ArrayTrainingInput(*training_cases.images(EXAMPLES), BATCH)
    t._now.step.micro_batch_size = t._prepare(data)
    t._now._batch_norm_settler(data, EXAMPLES)()
    kept = [weight.numpy() for weight in t.model.non_trainable_weights]
    return {f"w{i:02d}": value for i, value in enumerate(kept)}


CASES = {
    "pairs": lambda strategy: trained(strategy, grouped(2 * BATCH // 4)),
    "whole": lambda strategy: trained(strategy, grouped(BATCH)),
    "synchronised": lambda strategy: trained(strategy, synchronised),
    "resnet of pairs": lambda strategy: trained(
        strategy, grouped(2 * BATCH // 4, training_cases.small_resnet)
    ),
}


def on_four_cpus(folder, *cases):
    """Returns the results of cases on four logical CPUs, from a process with that many."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.batch_norm_cases", str(folder), *cases],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return read(folder / "worker0.npz")


def read(path):
    """Returns results by case and name."""
    with np.load(path) as file:
        return by_case(dict(file))


def by_case(flat):
    """Returns results by case and name, from names of both."""
    results = {}
    for key, value in flat.items():
        case, name = key.split("|")
        results.setdefault(case, {})[name] = value
    return results


def main():
    """Runs cases in this process."""
    folder, *cases = sys.argv[1:]
    cluster = resolve_cluster()
    if cluster.workers:
        strategy = create_strategy(cluster)
    else:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 4,
        )
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
    results = {
        f"{case}|{name}": value for case in cases for name, value in CASES[case](strategy).items()
    }
    np.savez(os.path.join(folder, f"worker{cluster.rank}.npz"), **results)


if __name__ == "__main__":
    main()

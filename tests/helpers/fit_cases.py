"""Programs as Keras's users write them, fitted by Keras or by a Trainer.

`python -m tests.helpers.fit_cases FOLDER` runs all cases by a Trainer, as the worker that TF_CONFIG
names, and writes `FOLDER/worker<rank>.npz`.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tf_lars import LARS, Trainer
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.distribute.strategy import create_strategy

EXAMPLES, BATCH = 45, 16
"""The last batch has 13 examples, which two replicas cannot share equally."""


class Cases:
    """Runs each case under a strategy.

    Args:
      strategy: Strategy in whose scope models are made.
      by_keras: Whether Keras's own `fit` trains them, instead of a Trainer.
    """

    def __init__(self, strategy, *, by_keras=False):
        self.strategy = strategy
        self.by_keras = by_keras

    def run(self, name):
        """Returns the final weights and the history of a case, by name."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model, histories = getattr(self, name)()
        results = {f"w{i}": w.numpy() for i, w in enumerate(model.weights)}
        if name != "dataset_of_unknown_length":  # Keras counts one step more in each epoch
            results["iterations"] = model.optimizer.iterations.numpy()
        for number, history in enumerate(histories):
            results[f"epochs {number}"] = np.array(history.epoch)
            for key, values in history.history.items():
                # Keras averages the losses of outputs over batches, whatever their sizes.
                of_output = key.endswith("_loss") and key != "val_loss"
                if key not in NOT_OF_KERAS and not of_output:
                    results[f"{key} {number}"] = np.array(values)
        return results

    def compiled(self, build, loss="mse", **options):
        """Returns a model made and compiled in the strategy's scope."""
        with self.strategy.scope():
            model = build()
            model.compile(LARS(0.3, weight_decay=1e-3, trust_coefficient=0.1), loss, **options)
        return model

    def fit(self, model, *arguments, **options):
        """Trains a model."""
        options = {"verbose": 0, "shuffle": False, "epochs": 2} | options
        if self.by_keras:
            return model.fit(*arguments, **options)
        return Trainer(model, steps_per_loop=2).fit(*arguments, **options)

    def arrays(self):
        x, y = numbers()
        model = self.compiled(dense, metrics=["mae"])
        held_out = (x[:19], y[:19])
        return model, [self.fit(model, x, y, batch_size=BATCH, validation_data=held_out)]

    def weights_of_examples(self):
        x, y = numbers()
        weight = np.linspace(0, 2, EXAMPLES)
        model = self.compiled(dense, metrics=["mae"], weighted_metrics=["mse"])
        data = {"sample_weight": weight, "validation_data": (x[:19], y[:19], weight[::-1][:19])}
        return model, [self.fit(model, x, y, BATCH, **data)]

    def weights_of_classes(self):
        x, y = numbers()
        classes = (y[:, 0] > 0).astype("int32")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = self.compiled(lambda: dense(2), loss, metrics=["accuracy"])
        return model, [self.fit(model, x, classes, BATCH, class_weight={0: 0.5, 1: 3.0})]

    def weights_of_one_hot_classes(self):
        x, y = numbers()
        classes = keras.utils.to_categorical(y[:, 0] > 0, 2)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        data = tf.data.Dataset.from_tensor_slices((x, classes)).batch(BATCH)
        model = self.compiled(lambda: dense(2), loss)
        return model, [self.fit(model, data, class_weight={1: 3.0})]

    def dictionaries(self):
        x, y = numbers()
        model = self.compiled(
            two_by_two,
            {"sum": "mse", "sign": keras.losses.BinaryCrossentropy(from_logits=True)},
            loss_weights={"sum": 0.5, "sign": 2.0},
            metrics={"sum": ["mae"], "sign": ["accuracy"]},
        )
        inputs = {"right": x[:, 2:], "left": x[:, :2]}
        targets = {"sign": (y > 0).astype("float32"), "sum": y}
        weight = {"sum": np.linspace(1, 2, EXAMPLES), "sign": np.linspace(0, 1, EXAMPLES)}
        held_out = (inputs, targets)
        return model, [
            self.fit(model, inputs, targets, BATCH, sample_weight=weight, validation_data=held_out)
        ]

    def lists(self):
        x, y = numbers()
        losses = ["mse", keras.losses.BinaryCrossentropy(from_logits=True)]
        model = self.compiled(lambda: two_by_two(named=False), losses)
        return model, [self.fit(model, [x[:, :2], x[:, 2:]], [y, (y > 0).astype("float32")], BATCH)]

    def frames(self):
        import pandas as pd

        x, y = numbers()
        model = self.compiled(dense)
        return model, [self.fit(model, pd.DataFrame(x), pd.DataFrame(y), BATCH)]

    def dataset(self):
        x, y = numbers()
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
        model = self.compiled(dense, metrics=["mae"])
        return model, [self.fit(model, data, validation_data=data.take(2), validation_freq=2)]

    def dataset_of_unknown_length(self):
        x, y = numbers()
        data = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True).batch(BATCH)
        model = self.compiled(dense)
        return model, [self.fit(model, data)]

    def endless_dataset(self):
        x, y = numbers()
        data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(BATCH)
        model = self.compiled(dense)
        return model, [
            self.fit(model, data, steps_per_epoch=4, validation_data=data, validation_steps=2)
        ]

    def py_dataset(self):
        model = self.compiled(dense)
        data = Batches()
        history = self.fit(model, data, validation_data=Batches(), epochs=3)
        assert self.by_keras or data.ended == 3
        return model, [history]

    def generator(self):
        batches = Batches()
        data = (batches[i % 3] for i in range(100))
        model = self.compiled(dense)
        return model, [self.fit(model, data, steps_per_epoch=3)]

    def split(self):
        x, y = numbers()
        model = self.compiled(dense)
        return model, [self.fit(model, x, y, BATCH, validation_split=0.2)]

    def twice(self):
        x, y = numbers()
        model = self.compiled(dense)
        first = self.fit(model, x, y, BATCH)
        return model, [first, self.fit(model, x, y, BATCH, epochs=3, initial_epoch=1)]

    def own_compute_loss(self):
        x, y = numbers()
        model = self.compiled(OwnLoss)
        return model, [self.fit(model, x, y, BATCH)]

    def added_losses(self):
        x, y = numbers()
        model = self.compiled(AddedLosses)
        return model, [self.fit(model, x[:32], y[:32], BATCH)]

    def weights_of_pixels(self):
        """A weight per example of a loss that has a value per pixel, which Keras cannot take."""
        x, y = numbers()
        images, colours = np.tanh(x[:, :, None, None] * np.ones([1, 1, 4, 2], "float32")), y > 0
        targets = np.broadcast_to(colours[:, :, None, None], [EXAMPLES, 4, 4, 1]).astype("float32")
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model = self.compiled(pixels, mean_of_pixels if self.by_keras else loss)
        weight = np.linspace(0, 2, EXAMPLES)
        held_out = (images[:19], targets[:19], weight[:19])
        return model, [
            self.fit(
                *(model, images, targets, BATCH), sample_weight=weight, validation_data=held_out
            )
        ]

    def weights_of_steps(self):
        steps = np.random.default_rng(2).integers(1, 4, (EXAMPLES, 6))
        targets = np.eye(4, dtype="float32")[(steps + 1) % 4]
        weight = np.random.default_rng(3).uniform(size=(EXAMPLES, 6))
        model = self.compiled(
            lambda: masked(mask_zero=False), keras.losses.CategoricalCrossentropy(from_logits=True)
        )
        return model, [self.fit(model, steps, targets, BATCH, sample_weight=weight)]

    def masked_steps(self):
        steps = np.random.default_rng(2).integers(0, 4, (48, 6))
        targets = np.eye(4, dtype="float32")[(steps + 1) % 4]
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model = self.compiled(masked, loss)
        return model, [self.fit(model, steps, targets, BATCH)]


ALL = [name for name in vars(Cases) if name not in ("__init__", "run", "compiled", "fit")]
ALL = [name for name in ALL if not name.startswith("__")]

NOT_OF_KERAS = (
    *("step", "learning_rate", "images_per_second", "input_wait", "skipped_steps"),
    "seconds",
    *("epoch", "examples", "val_examples"),
)
"""What a Trainer's history holds besides."""


def numbers():
    """Returns inputs `[examples, 4]` and targets `[examples, 1]`."""
    x = np.random.default_rng(0).normal(size=(EXAMPLES, 4)).astype("float32")
    return x, np.tanh(x @ np.array([[1.0], [-2.0], [0.5], [0.3]])).astype("float32")


def dense(units=1):
    """Returns a network of two layers."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", kernel_regularizer="l2"),
            layers.Dense(units),
        ]
    )


def two_by_two(named=True):
    """Returns a network with two inputs and two outputs."""
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    hidden = layers.Dense(5, activation="tanh")(layers.Concatenate()([left, right]))
    outputs = {"sum": layers.Dense(1, name="sum")(hidden)}
    outputs["sign"] = layers.Dense(1, name="sign")(hidden)
    if named:
        return keras.Model({"left": left, "right": right}, outputs)
    return keras.Model([left, right], list(outputs.values()))


def masked(mask_zero=True):
    """Returns a network of sequences in which some steps may be masked."""
    return keras.Sequential(
        [keras.Input((6,)), layers.Embedding(4, 3, mask_zero=mask_zero), layers.Dense(4)]
    )


def pixels():
    """Returns a network with an output for each pixel."""
    return keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(1, 3, padding="same")])


def mean_of_pixels(y_true, y_pred):
    """Returns the mean loss of each example."""
    values = keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)
    return keras.ops.mean(values, axis=(1, 2))


class OwnLoss(keras.Sequential):
    """A network with a loss of its own."""

    def __init__(self):
        super().__init__(dense().layers)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the compiled loss, a raw mean and the value of a Keras loss."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.1 * keras.losses.MeanAbsoluteError()(y, y_pred)


class AddedLosses(keras.Model):
    """A network whose layers add losses of each kind."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activity_regularizer="l2", kernel_regularizer="l2")
        self.out = layers.Dense(1)

    def call(self, x):
        """Returns the outputs, and adds a value and a Keras loss."""
        hidden = self.hidden(x)
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(hidden)))
        self.add_loss(keras.losses.MeanAbsoluteError()(keras.ops.zeros_like(hidden), hidden))
        return self.out(hidden)


class Batches(keras.utils.PyDataset):
    """The examples of `numbers` in batches."""

    def __init__(self):
        super().__init__()
        self.ended = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = numbers()
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return x[rows], y[rows]

    def on_epoch_end(self):
        """Counts the epochs."""
        self.ended += 1


def main():
    """Runs all cases as one worker."""
    cluster = resolve_cluster()
    strategy = create_strategy(cluster)
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    cases = Cases(strategy)
    results = {f"{case}|{name}": value for case in ALL for name, value in cases.run(case).items()}
    np.savez(os.path.join(sys.argv[1], f"worker{cluster.rank}.npz"), **results)


if __name__ == "__main__":
    main()

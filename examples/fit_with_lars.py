"""An image classifier with LARS, trained by Keras's own `fit` on any number of workers."""

import sys

import keras
from sklearn.datasets import load_digits

from tf_lars import LARS, create_strategy, schedules

BATCH = 256  # over all workers


def data():
    """Returns training and test images `[n, 8, 8, 1]` from 0 to 1, with their classes."""
    digits = load_digits()
    images, classes = digits.images[..., None] / 16.0, digits.target
    return (images[:1536], classes[:1536]), (images[1536:], classes[1536:])


def build():
    """Returns a network of logits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Conv2D(64, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def train(strategy, epochs=20):
    """Returns the accuracy on the test images after training."""
    (x, y), test = data()
    steps = epochs * len(x) // BATCH
    rate = schedules.WarmupPolynomial(2.0, total_steps=steps, warmup_steps=steps // 10)
    keras.utils.set_random_seed(0)  # the same weights and order on all workers
    with strategy.scope():
        model = build()
        model.compile(
            LARS(rate, weight_decay=1e-4),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=2)
    return model.evaluate(*test, batch_size=BATCH, verbose=0, return_dict=True)["accuracy"]


def main():
    """Trains, and prints the accuracy on the test images."""
    strategy = create_strategy()  # of all workers of the job, or of this process alone
    print(f"test accuracy {train(strategy, *map(int, sys.argv[1:])):.4f}")


if __name__ == "__main__":
    main()

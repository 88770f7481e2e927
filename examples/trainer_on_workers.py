"""An image classifier with LARS, trained by `Trainer`: many steps per call, exact, resumable."""

import os
import sys

import keras
from sklearn.datasets import load_digits

from tf_lars import LARS, Trainer, create_strategy, schedules
from tf_lars.cluster.spec import resolve_cluster
from tf_lars.training.checkpoints import CheckpointStore

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/example"  # shared by all workers
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


def main():
    """Trains, or resumes, and prints the accuracy on the test images."""
    (x, y), test = data()
    steps = EPOCHS * len(x) // BATCH
    rate = schedules.WarmupPolynomial(2.0, total_steps=steps, warmup_steps=steps // 10)
    cluster = resolve_cluster()  # TF_CONFIG, or this process alone
    keras.utils.set_random_seed(0)  # the same weights on all workers
    with create_strategy(cluster).scope():
        model = build()
        model.compile(
            LARS(rate, weight_decay=1e-4),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    history = Trainer(model).fit(
        *(x, y, BATCH, EPOCHS),
        validation_data=test,
        validation_freq=EPOCHS,
        batch_norm_examples=1536,  # 120 steps are too few for moving averages
        checkpoints=CheckpointStore(
            os.path.join(FOLDER, "checkpoints"),
            {"epochs": EPOCHS, "batch": BATCH},  # what a run must share with its checkpoints
            is_chief=cluster.is_chief,
        ),
    )
    print(f"test accuracy {history[-1]['val_accuracy']:.4f}")


if __name__ == "__main__":
    main()

"""The classifier of `fit_with_lars.py`, trained by `Trainer`: faster, exact and resumable."""

import os
import sys

import keras
from fit_with_lars import BATCH, build, data

from tf_lars import LARS, Trainer, create_strategy, schedules
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.training.checkpoints import CheckpointStore

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/example"  # shared by all workers


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

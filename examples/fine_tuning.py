"""Fine-tuning in two stages with one `Trainer`: a new head first, then all layers."""

import sys

import keras
from sklearn.datasets import load_digits

from tf_lars import LARS, Trainer, create_strategy

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
BATCH = 128  # over all workers


def build_base():
    """Returns the layers that are trained first on the digits below 5, and then kept."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
        ],
        name="base",
    )


def compiled(model, rate):
    """Compiles a model anew; the next `fit` of its Trainer follows it."""
    model.compile(
        LARS(rate, trust_coefficient=0.01, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main():
    """Trains on half of the classes, then fine-tunes for the other half."""
    digits = load_digits()
    images, classes = digits.images[..., None] / 16.0, digits.target
    low = classes < 5
    strategy = create_strategy()  # TF_CONFIG, or this process alone
    keras.utils.set_random_seed(0)
    with strategy.scope():
        base = build_base()
        model = compiled(keras.Sequential([base, keras.layers.Dense(5)]), 1.0)
    Trainer(model).fit(images[low], classes[low], BATCH, EPOCHS)

    with strategy.scope():
        base.trainable = False
        tuned = compiled(keras.Sequential([base, keras.layers.Dense(5)]), 1.0)
    trainer = Trainer(tuned)
    new = images[~low], classes[~low] - 5
    head_only = trainer.fit(*new, BATCH, EPOCHS, validation_split=0.2)
    with strategy.scope():
        base.trainable = True
        compiled(tuned, 0.3)
    everything = trainer.fit(*new, BATCH, EPOCHS, validation_split=0.2)
    for stage, history in (("head", head_only), ("all layers", everything)):
        print(f"{stage}: validation accuracy {history.history['val_accuracy'][-1]:.4f}")


if __name__ == "__main__":
    main()

"""A network with two inputs and two outputs, by dictionaries, trained by `Trainer`."""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

from tf_lars import LARS, Trainer, create_strategy

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
BATCH = 128  # over all workers


def build():
    """Returns a network that sees the halves of an image, and gives its class and its ink."""
    halves = {name: keras.Input((8, 4, 1), name=name) for name in ("left", "right")}
    features = [
        keras.layers.Flatten()(keras.layers.Conv2D(16, 3, activation="relu")(half))
        for half in halves.values()
    ]
    hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Concatenate()(features))
    outputs = {
        "digit": keras.layers.Dense(10, name="digit")(hidden),
        "ink": keras.layers.Dense(1, name="ink")(hidden),
    }
    return keras.Model(halves, outputs)


def main():
    """Trains, and prints what each output has learned."""
    digits = load_digits()
    images = digits.images[..., None] / 16.0
    inputs = {"left": images[:, :, :4], "right": images[:, :, 4:]}
    targets = {"digit": digits.target, "ink": images.mean((1, 2))}
    weights = {"digit": np.ones(len(images)), "ink": 1.0 + targets["ink"][:, 0]}
    keras.utils.set_random_seed(0)
    with create_strategy().scope():  # TF_CONFIG, or this process alone
        model = build()
        model.compile(
            # Without batch normalisation, biases need a smaller rate.
            LARS(1.0, trust_coefficient=0.01, excluded_learning_rate_multiplier=0.01),
            loss={
                "digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "ink": "mse",
            },
            loss_weights={"digit": 1.0, "ink": 5.0},
            metrics={"digit": ["accuracy"], "ink": ["mae"]},
        )
    trainer = Trainer(model)
    trainer.fit(inputs, targets, BATCH, EPOCHS, sample_weight=weights)
    results = trainer.evaluate(inputs, targets, BATCH)
    print(f"accuracy {results['digit_accuracy']:.4f}, error of the ink {results['ink_mae']:.4f}")


if __name__ == "__main__":
    main()

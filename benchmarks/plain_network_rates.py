"""Why LARS fails on a network without batch normalisation: sizes of the variables' steps.

LARS moves a kernel by (rate x trust coefficient) times its norm, and a bias, which it does not
adapt, by the rate times its gradient. This prints both for the first step on the digits.

    python -m benchmarks.plain_network_rates --learning_rate=10

The network is `models.study_networks:plain_convnet`.
"""

import argparse

import keras
import numpy as np

from benchmarks import tables
from models import study_networks
from tf_lars import LARS
from tf_lars.data import in_memory
from tf_lars.data.prepare import digits


def rows(data_dir, learning_rate, batch, seed):
    """Returns the learning rate that LARS gives each variable of the network, and its step.

    `effective_rate` is that of plain SGD with the same step; `step` is the norm of the step divided
    by the norm of all weights.
    """
    images = in_memory.load(data_dir, "train", 8, 1.0)
    chosen = np.random.default_rng(seed).permutation(len(images))[:batch]
    keras.utils.set_random_seed(seed)
    model = study_networks.plain_convnet(num_classes=10, image_size=8)
    optimizer = LARS(learning_rate, weight_decay=5e-4, momentum=0.0)
    optimizer.record_layer_statistics()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in model.trainable_variables]
    model.train_on_batch(images.image[chosen], images.label[chosen])
    norm = np.sqrt(sum(np.sum(value**2) for value in before))
    found = []
    for variable, value in zip(model.trainable_variables, before, strict=True):
        statistics = optimizer.layer_statistics()[variable.path]
        step = np.linalg.norm(variable.numpy() - value)
        found.append(
            {
                "variable": variable.path,
                "gradient_norm": f"{statistics.gradient_norm:.4f}",
                "weight_norm": f"{statistics.weight_norm:.3f}",
                "effective_rate": f"{learning_rate * statistics.trust_ratio:.4g}",
                "step": f"{step / norm:.4f}",
            }
        )
    return found


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data/digits")
    parser.add_argument("--learning_rate", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    digits.prepare(options.data_dir)
    tables.show(rows(options.data_dir, options.learning_rate, options.batch, options.seed))


if __name__ == "__main__":
    main()

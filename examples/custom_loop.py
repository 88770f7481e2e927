"""LARS in a training loop of your own, on any number of workers."""

import sys

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from tf_lars import LARS, create_strategy

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
BATCH = 256  # over all workers


def build():
    """Returns a network of logits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def main():
    """Trains, and prints the loss of each fifth epoch."""
    # TF_CONFIG, or this process alone; before anything else of TensorFlow.
    strategy = create_strategy()
    digits = load_digits()
    images, classes = (digits.images[..., None] / 16.0).astype("float32"), digits.target
    data = tf.data.Dataset.from_tensor_slices((images, classes)).shuffle(2048, seed=0)
    batches = strategy.experimental_distribute_dataset(data.batch(BATCH, drop_remainder=True))
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build()
        optimizer = LARS(1.0, trust_coefficient=0.01, weight_decay=1e-4)
        # Variables cannot be made within strategy.run.
        optimizer.build(model.trainable_variables)

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            losses = keras.ops.sparse_categorical_crossentropy(y, model(x), from_logits=True)
            loss = tf.reduce_sum(losses) / BATCH  # its sum over replicas is the mean
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(x, y):
        return strategy.reduce("SUM", strategy.run(replica_step, (x, y)), axis=None)

    for epoch in range(1, EPOCHS + 1):
        losses = [float(step(x, y)) for x, y in batches]
        if epoch % 5 == 0 or epoch == EPOCHS:
            print(f"epoch {epoch}: loss {sum(losses) / len(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()

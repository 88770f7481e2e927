"""One of two workers that train with the Keras callbacks of trackers, on the chief only."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

import keras
import numpy as np

from tf_lars import LARS, Trainer, create_strategy
from tf_lars.distribute.replicas import is_first_worker

EPOCHS = 3


def trackers(folder):
    """Returns TensorBoard's callback, and that of W&B where it is installed."""
    yield keras.callbacks.TensorBoard(
        os.path.join(folder, "tensorboard"), histogram_freq=0, update_freq="epoch"
    )
    try:
        import wandb
    except ImportError:
        return
    from wandb.integration.keras import WandbMetricsLogger

    wandb.init(project="digits", dir=folder, config={"batch": 16})
    yield WandbMetricsLogger()


def main(folder):
    """Trains, and writes worker<i>.npz with the weights and the history."""
    strategy = create_strategy()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(LARS(0.1), loss, metrics=["accuracy"])
    callbacks = list(trackers(folder)) if is_first_worker(strategy) else []
    history = Trainer(model, steps_per_loop=2).fit(
        *(x, y, 16, EPOCHS), validation_data=(x, y), callbacks=callbacks
    )
    np.savez(
        os.path.join(folder, f"worker{strategy.cluster_resolver.task_id}.npz"),
        kernel=model.trainable_weights[0].numpy(),
        trackers=np.array([type(callback).__name__ for callback in callbacks]),
        **{name: np.array(values) for name, values in history.history.items()},
    )
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


if __name__ == "__main__":
    main(sys.argv[1])

"""What the training tests run: in one process, on two logical CPUs, or as a worker of a cluster.

`python -m tests.training_cases FOLDER` runs all cases as the worker that TF_CONFIG names, and
writes `FOLDER/worker<rank>.npz`.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import models
from tf_lars import LARS, Trainer, schedules
from tf_lars.checkpoints import CheckpointStore
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.distribute import cluster as clusters
from tf_lars.distribute import strategy as strategies

BATCH = 64
TIMES = ("images_per_second", "seconds")


def images(examples, seed=0):
    """Returns learnable images: uint8 `[examples, 8, 8, 3]` and labels `[examples]`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, examples)
    patterns = np.random.default_rng(99).integers(0, 256, (10, 8, 8, 3))
    noise = random.normal(0, 40, (examples, 8, 8, 3))
    return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.int64)


def plain_model():
    """A network without batch normalisation, whose result does not depend on the replicas."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 128, offset=-1.0),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def trainer(strategy, build, optimizer=None, **arguments):
    """Returns a Trainer of a freshly built and compiled model."""
    keras.backend.clear_session()  # the same names in every process
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build()
        model.compile(
            optimizer()
            if optimizer
            else LARS(
                schedules.WarmupPolynomial(2.0, total_steps=20, warmup_steps=4), weight_decay=1e-3
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return Trainer(model, strategy, **arguments)


def small_resnet():
    """A network with batch normalisation."""
    return models.create("small_resnet8", num_classes=10, image_size=8)


def weights(model):
    """Returns all weights by name, as this process's first replica has them."""
    return {f"w{i:03d} {w.path}": w.numpy() for i, w in enumerate(model.weights)}


def equality(strategy, directory):
    """20 LARS steps without batch normalisation."""
    t = trainer(strategy, plain_model)
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model) | {"loss": history[-1]["loss"], "accuracy": history[-1]["accuracy"]}


def micro_batches(strategy, directory):
    """The same 20 steps in parts of 8 examples."""
    t = trainer(strategy, plain_model, micro_batch_size=8)
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model) | {"loss": history[-1]["loss"], "accuracy": history[-1]["accuracy"]}


def clipping(strategy, directory):
    """20 SGD steps of Keras's own optimizer with a clip that is always reached."""
    t = trainer(strategy, plain_model, lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.01))
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model)


def batch_norm(strategy, directory):
    """Statistics of batch normalisation, averaged, and estimated from a whole epoch."""
    t = trainer(strategy, small_resnet)
    data = ArrayTrainingInput(*images(256), BATCH)
    validation = ArrayEvaluationInput(*images(50, seed=1), BATCH)
    t.fit(data, epochs=1, validation=validation)
    result = {f"averaged {k}": v for k, v in weights(t.model).items() if "moving" in k}
    before = weights(t.model)
    t._batch_norm_settler(data, 256)()
    after = weights(t.model)
    result |= {f"estimated {k}": v for k, v in after.items() if "moving" in k}
    result["weights stay"] = all(
        np.array_equal(before[k], after[k]) for k in before if "moving" not in k
    )
    return result


def evaluation(strategy, directory):
    """Evaluation of awkward numbers of examples."""
    t = trainer(strategy, small_resnet)
    result = {}
    for examples in (1, 7, 64, 101):
        logs = t.evaluate(ArrayEvaluationInput(*images(examples, seed=2), BATCH))
        result |= {f"{examples} {name}": value for name, value in logs.items()}
    return result


def resumption(strategy, directory):
    """A run stopped after two of four epochs and taken up again, beside one that was not."""
    data = ArrayTrainingInput(*images(300), BATCH)
    validation = ArrayEvaluationInput(*images(50, seed=1), BATCH)
    chief = clusters.resolve().is_chief

    def run(name, stop_after=None):
        t = trainer(strategy, small_resnet)
        store = CheckpointStore(os.path.join(directory, name), {"batch": BATCH}, is_chief=chief)
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(
                t.model, "stop_training", epoch + 1 == stop_after
            )
        )
        history = t.fit(
            data,
            epochs=4,
            validation=validation,
            batch_norm_examples=128,
            callbacks=[stop],
            checkpoints=store,
        )
        return t, store, history

    undisturbed, _, expected = run("undisturbed")
    run("stopped", stop_after=2)
    again, store, history = run("stopped")
    assert store.resumed_from.endswith("step-00000010")
    timeless = [
        [{k: v for k, v in entry.items() if k not in TIMES} for entry in entries]
        for entries in (expected, history)
    ]
    assert timeless[0] == timeless[1]
    assert weights(undisturbed.model).keys() == weights(again.model).keys()
    assert [h["epoch"] for h in history] == [1, 2, 3, 4]
    return weights(again.model) | {
        f"undisturbed {k}": v for k, v in weights(undisturbed.model).items()
    }


CASES = (equality, micro_batches, clipping, batch_norm, evaluation, resumption)


def main():
    """Runs all cases as one worker."""
    cluster = clusters.resolve()
    strategy = strategies.create(cluster)
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    results = {
        f"{case.__name__}|{name}": value
        for case in CASES
        for name, value in case(strategy, sys.argv[1]).items()
    }
    np.savez(os.path.join(sys.argv[1], f"worker{cluster.rank}.npz"), **results)


if __name__ == "__main__":
    main()

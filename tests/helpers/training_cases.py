"""Cases of the training tests, for one process, two logical CPUs, or a worker of a cluster.

`python -m tests.helpers.training_cases FOLDER GROUP` runs a group of cases as the worker that
TF_CONFIG names, and writes `FOLDER/worker<rank>.npz`.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import models
from tests.helpers import two_processes
from tf_lars import LARS, Trainer, schedules
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.distribute.strategy import create_strategy
from tf_lars.errors import DivergedError
from tf_lars.optimizers.loss_scale import LossScaleOptimizer
from tf_lars.tracking.observation import Observe
from tf_lars.training.checkpoints import CheckpointStore

BATCH = 64
TIMES = ("images_per_second", "input_wait", "seconds")


def images(examples, seed=0):
    """Returns handwritten digits: uint8 `[examples, 8, 8, 3]` and labels `[examples]`."""
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = np.random.default_rng(seed).permutation(len(data.target))[:examples]
    grey = (data.images[chosen] * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=3), data.target[chosen]


def plain_model():
    """Returns a network without batch normalisation, trained alike on any number of replicas."""
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


def small_resnet(**options):
    """Returns a network with batch normalisation."""
    return models.create("small_resnet8", num_classes=10, image_size=8, **options)


def with_dropout():
    """Returns a network with dropout and batch normalisation."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 128, offset=-1.0),
            keras.layers.Dropout(0.1),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def weights(model):
    """Returns all weights by name, from this process's first replica."""
    return {f"w{i:03d} {w.path}": w.numpy() for i, w in enumerate(model.weights)}


def equality(strategy, directory):
    """Takes 20 LARS steps without batch normalisation."""
    t = trainer(strategy, plain_model)
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model) | {"loss": history[-1]["loss"], "accuracy": history[-1]["accuracy"]}


def micro_batches(strategy, directory):
    """Takes the same 20 steps in parts of 8 examples."""
    t = trainer(strategy, plain_model, micro_batch_size=8)
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model) | {"loss": history[-1]["loss"], "accuracy": history[-1]["accuracy"]}


def ramped(strategy, directory):
    """Takes 15 steps, of batches that double twice."""
    t = trainer(strategy, plain_model)
    data = ArrayTrainingInput(*images(320), BatchSizeSchedule.parse("0:32,1:64,2:128"))
    history = t.fit(data, epochs=4)
    assert t.micro_batch_size == 32 // strategy.num_replicas_in_sync
    return weights(t.model) | {"loss": history[-1]["loss"], "accuracy": history[-1]["accuracy"]}


def synchronised(strategy, directory):
    """Takes 20 LARS steps with batch normalisation by the statistics of the whole batch."""
    t = trainer(strategy, lambda: small_resnet(sync_batch_norm=True))
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model)


def reduced_in_bfloat16(strategy, directory):
    """Takes the same 20 steps with gradients rounded in the all-reduce."""
    t = trainer(strategy, plain_model, reduction_dtype="bfloat16", bytes_per_pack=1000)
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model)


def averaged(strategy, directory):
    """Takes 20 LARS steps; returns the weights, their average and the average's evaluation."""
    t = trainer(strategy, plain_model, _averaging, evaluate_average=True)
    validation = ArrayEvaluationInput(*images(50, seed=1), BATCH)
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4, validation_data=validation)
    trained = weights(t.model)
    with t.averaged_weights():
        average = {f"average {name}": value for name, value in weights(t.model).items()}
    return trained | average | {"val_loss": history[-1]["val_loss"]}


def _averaging():
    schedule = schedules.WarmupPolynomial(2.0, total_steps=20, warmup_steps=4)
    return LARS(schedule, weight_decay=1e-3, use_ema=True, ema_momentum=0.8)


BAD_EXAMPLE = 37
"""Index of an example that only one replica gets."""


def not_finite(strategy, directory):
    """Trains for two epochs, in each of which an image with an Inf causes a skipped step."""
    x, y = images(320)
    x = x.astype(np.float32)
    x[BAD_EXAMPLE, 3, 3, 0] = np.inf
    t = trainer(strategy, plain_model)
    history = t.fit(ArrayTrainingInput(x, y, BATCH), epochs=2)
    skipped = [entry["skipped_steps"] for entry in history]
    losses = [entry["loss"] for entry in history]
    finite = bool(np.all(np.isfinite(losses)))
    return weights(t.model) | {"losses are finite": finite, "skipped": skipped, "step": t.step}


def diverged(strategy, directory):
    """Trains at a hundred times a good rate, without a warm-up, until training ends by itself."""
    return _until_divergence(
        trainer(strategy, linear_model, lambda: keras.optimizers.SGD(10.0, momentum=0.9))
    )


def linear_model():
    """Returns a network in which nothing bounds the outputs."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 128, offset=-1.0),
            keras.layers.Flatten(),
            *(keras.layers.Dense(width) for width in (32, 32, 10)),
        ]
    )


def exploded(strategy, directory):
    """Does the same with a network that bears any weights."""
    return _until_divergence(
        trainer(strategy, small_resnet, lambda: LARS(1000.0), observe=Observe(layers_every=1))
    )


def _until_divergence(t):
    try:
        t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=200, verbose=0)
    except DivergedError as error:
        return weights(t.model) | {"message": str(error), "step": t.step}
    raise AssertionError("training has not diverged")


def half_precision(strategy, directory):
    """Trains for eight epochs in float16, with a scale that is too large at first."""
    t = trainer(
        strategy,
        _half_precision_model,
        lambda: LossScaleOptimizer(LARS(1.0), initial_scale=2.0**30),
    )
    history = t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=8)
    losses = [history[0]["loss"], history[-1]["loss"]]
    return weights(t.model) | {
        "losses": losses,
        "skipped": history[-1]["skipped_steps"],
        "steps": [t.step, int(t.model.optimizer.iterations.numpy())],
    }


def _half_precision_model():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        return plain_model()
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def fitted_micro_batch(strategy, directory):
    """Takes the same 20 steps as `equality` if half of each replica's share fits into memory."""
    half = BATCH // strategy.num_replicas_in_sync // 2
    t = trainer(strategy, lambda: limited_model(half), micro_batch_size="auto")
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model) | {"halved": t._now.step.micro_batch_size == half}


def limited_model(most):
    """Returns `plain_model`, which runs out of memory with more than `most` examples."""
    model = plain_model()
    rescaling = model.layers[0]
    call = rescaling.call

    def limited(x):
        if x.shape[0] and x.shape[0] > most:
            # 2**50 bytes, by a number that TensorFlow cannot compute in advance.
            size = tf.cast(tf.reduce_max(x) > -1, tf.int64) * 2**50
            x = tf.cast(x, tf.float32) + tf.reduce_sum(tf.fill([size], 0.0))
        return call(x)

    rescaling.call = limited
    return model


def compiled(strategy, directory):
    """Takes the same 20 steps, compiled with XLA."""
    t = trainer(strategy, plain_model, jit_compile=True)
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model)


def clipping(strategy, directory):
    """Takes 20 steps of Keras's own SGD, with a clip that is always reached."""
    t = trainer(strategy, plain_model, lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.01))
    t.fit(ArrayTrainingInput(*images(320), BATCH), epochs=4)
    return weights(t.model)


def batch_norm(strategy, directory):
    """Returns batch normalisation statistics, both averaged and estimated from a whole epoch."""
    t = trainer(strategy, small_resnet)
    data = ArrayTrainingInput(*images(256), BATCH)
    validation = ArrayEvaluationInput(*images(50, seed=1), BATCH)
    t.fit(data, epochs=1, validation_data=validation)
    result = {f"averaged {k}": v for k, v in weights(t.model).items() if "moving" in k}
    before = weights(t.model)
    t._now._batch_norm_settler(data, 256)()
    after = weights(t.model)
    result |= {f"estimated {k}": v for k, v in after.items() if "moving" in k}
    result["weights stay"] = all(
        np.array_equal(before[k], after[k]) for k in before if "moving" not in k
    )
    return result


def evaluation(strategy, directory):
    """Evaluates awkward numbers of examples."""
    t = trainer(strategy, small_resnet)
    result = {}
    for examples in (1, 7, 64, 101):
        logs = t.evaluate(ArrayEvaluationInput(*images(examples, seed=2), BATCH))
        result |= {f"{examples} {name}": value for name, value in logs.items()}
    return result


def resumption(strategy, directory):
    """Compares a run stopped after two of four epochs and resumed with an undisturbed one."""
    data = ArrayTrainingInput(*images(300), BATCH)
    validation = ArrayEvaluationInput(*images(50, seed=1), BATCH)
    chief = resolve_cluster().is_chief

    def run(name, stop_after=None):
        t = trainer(strategy, with_dropout)
        store = CheckpointStore(os.path.join(directory, name), {"batch": BATCH}, is_chief=chief)
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(
                t.model, "stop_training", epoch + 1 == stop_after
            )
        )
        history = t.fit(
            data,
            epochs=4,
            validation_data=validation,
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


class StopAt(keras.callbacks.Callback):
    """Callback that stops training after a step or an epoch."""

    def __init__(self, step=None, epoch=None):
        super().__init__()
        self.step, self.epoch = step, epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            self.model.stop_training = True


GROUPS = {
    "divergence": (diverged, exploded),
    "steps": (equality, micro_batches, ramped, synchronised, not_finite, evaluation),
    "more": (
        equality,
        clipping,
        batch_norm,
        resumption,
        reduced_in_bfloat16,
        averaged,
        half_precision,
        fitted_micro_batch,
        compiled,
    ),
}
"""Cases by group; the first group is enough to notice that something is wrong."""


def names(group):
    """Returns the names of the cases of a group."""
    return [case.__name__ for case in GROUPS[group]]


def run(group, strategy, directory):
    """Returns the results of a group by case and name, from this process."""
    return {case.__name__: case(strategy, directory) for case in GROUPS[group]}


def run_two_workers(group, directory):
    """Returns the results of a group by (case, rank) and name, from two processes."""
    workers = two_processes.run("tests.helpers.training_cases", directory, group)
    results = {(name, rank): {} for name in names(group) for rank in range(2)}
    for rank, worker in enumerate(workers):
        for key, value in worker.items():
            case, name = key.split("|")
            results[case, rank][name] = value
    return results


def assert_close(results, expected, rtol):
    """Compares every variable, relative to the largest of its values."""
    for name, value in expected.items():
        scale = np.max(np.abs(value))
        np.testing.assert_allclose(results[name], value, rtol=0, atol=rtol * scale, err_msg=name)


def assert_same_training(results, expected, rtol=1e-6):
    """Compares all weights together by their norm, and each variable ten times as loosely."""
    assert_close(results, expected, 10 * rtol)
    learned = [name for name in expected if name.startswith("w")]
    ours, theirs = (
        np.concatenate([np.ravel(one[name]) for name in learned]) for one in (results, expected)
    )
    assert np.linalg.norm(ours - theirs) <= rtol * np.linalg.norm(theirs)


def assert_same_bits(results, expected):
    """Checks that two workers report the same values, bit for bit."""
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(results[name], value, err_msg=name)


def main():
    """Runs a group of cases as one worker."""
    directory, group = sys.argv[1:]
    cluster = resolve_cluster()
    strategy = create_strategy(cluster)
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    results = {
        f"{case}|{name}": value
        for case, values in run(group, strategy, directory).items()
        for name, value in values.items()
    }
    np.savez(os.path.join(directory, f"worker{cluster.rank}.npz"), **results)


if __name__ == "__main__":
    main()

"""Input pipelines on two hosts that this process drives, as on a TPU slice, but on CPUs.

`python -m tests.helpers.remote_input OUTPUT DATA_DIR grpc://HOST:PORT,grpc://HOST:PORT` connects to
two servers of `launch.tpu_server` and writes the results of all cases to `OUTPUT`, an npz file.
"""

import dataclasses
import functools
import importlib.util
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars import Trainer
from tf_lars.data import pipeline_host
from tf_lars.data.augmentation_names import KERAS_CV_AUGMENTATIONS
from tf_lars.data.fit_inputs import choose
from tf_lars.data.image_input import EvaluationInput, TrainingInput, to_device_batch
from tf_lars.data.mixing import Mixing
from tf_lars.distribute.replicas import distribute
from tf_lars.errors import InputError

HOSTS, STEPS, SIZE, CLASSES = 2, 60, 8, 10
EPOCHS = 30
"""Each begins with assignments that its first step must not overtake."""


def inputs(data_dir, **options):
    """Returns functions from a context to the batches of training and evaluation, by name."""
    training = TrainingInput(data_dir, 64, SIZE, seed=3, **options)
    mixed = dataclasses.replace(training, mixing=Mixing(0.2, 1.0, 0.5))
    cropped = dataclasses.replace(training, augmentation="pad_crop", flip=False)
    evaluation = EvaluationInput(data_dir, 64, SIZE, **options)
    cases = {
        "training": lambda context: training.dataset(context, 7, 7 + STEPS),
        "mixed": lambda context: mixed.dataset(context, 0, STEPS),
        "cropped": lambda context: cropped.dataset(context, 0, STEPS),
        "evaluation": evaluation.dataset,
    }
    for name in KERAS_CV_AUGMENTATIONS if importlib.util.find_spec("keras_cv") else ():
        augmented = dataclasses.replace(training, augmentation=name)
        cases[name] = lambda context, augmented=augmented: augmented.dataset(context, 0, 2)
    return cases


def arrays(batches):
    """Returns all values of some batches, `[batches, ...]`, by name."""
    batches = list(batches)
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def context_of(host):
    """Returns the context of a host that feeds one of two replicas."""
    return tf.distribute.InputContext(HOSTS, host, HOSTS)


def local_batches(dataset, host):
    """Returns the values of the batches that this process makes for a host."""
    return arrays(dataset(context_of(host)).as_numpy_iterator())


def fitted(strategy, data_dir):
    """Returns the weights and the accuracies of short epochs, each with an evaluation."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = training_cases.plain_model()
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    trainer = Trainer(
        model, strategy, prepare_batch=functools.partial(to_device_batch, num_classes=CLASSES)
    )
    history = trainer.fit(
        TrainingInput(data_dir, 512, SIZE),
        epochs=EPOCHS,
        validation_data=EvaluationInput(data_dir, 64, SIZE),
    )
    names = "loss", "accuracy", "val_loss", "val_accuracy"
    entries = {f"{i} {name}": entry[name] for i, entry in enumerate(history) for name in names}
    return training_cases.weights(model) | entries


class Sequence(keras.utils.PyDataset):
    """Two batches of zeros."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros([4, 3], np.float32), np.zeros([4], np.int32)


def user_dataset():
    """Returns a dataset as a user makes it, without Python functions."""
    return tf.data.Dataset.range(12).map(lambda i: (i, 2 * i)).batch(4)


def of_user(source, **options):
    """Returns a function from a context to the batches of an argument of `fit`."""
    data = choose.training(source, **options)
    return lambda context: data.dataset(context, 0, 2)


def _strategy(host):
    return tf.distribute.OneDeviceStrategy(f"/job:worker/task:{host}/device:CPU:0")


def _batches(dataset, host, count):
    """Returns the values of a host's batches, which that host makes."""
    strategy = _strategy(host)
    iterator = iter(distribute(strategy, lambda _: dataset(context_of(host))))
    return arrays(tf.nest.map_structure(np.asarray, next(iterator)) for _ in range(count))


def _refusal(dataset):
    try:
        _batches(dataset, 1, 1)
    except InputError as error:
        return str(error)
    return "none"


def _with_python(data_dir):
    """Returns the outcome of reading records in Python for the second host."""
    with mock.patch.object(pipeline_host, "is_remote", return_value=False):
        try:
            _batches(inputs(data_dir)["evaluation"], 1, 1)
        except tf.errors.OpError as error:
            return f"{type(error).__name__}: {error.message}"
    return "none"


def main(output, data_dir, addresses):
    """Runs all cases."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=addresses)
    tf.config.experimental_connect_to_cluster(resolver)
    results = {}
    steps = {"evaluation": EvaluationInput(data_dir, 64, SIZE).steps}
    steps |= dict.fromkeys(KERAS_CV_AUGMENTATIONS, 2)  # which are slow
    for host in range(HOSTS):
        for case, dataset in inputs(data_dir).items():
            values = _batches(dataset, host, steps.get(case, STEPS))
            results |= {f"{case}|{host}|{name}": value for name, value in values.items()}
        iterator = iter(distribute(_strategy(host), of_user(user_dataset())))
        results[f"dataset|{host}"] = np.stack(next(iterator).element)
    results["cache"] = _refusal(inputs(data_dir, cache=True)["evaluation"])
    results["max_bad_records"] = _refusal(inputs(data_dir, max_bad_records=2)["training"])
    results["PyDataset"] = _refusal(of_user(Sequence()))
    results["generator"] = _refusal(of_user((Sequence()[0] for _ in range(4)), steps=2))
    weights = fitted(_strategy(1), data_dir)
    results |= {f"fit|{name}": value for name, value in weights.items()}
    results["Python"] = _with_python(data_dir)
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])

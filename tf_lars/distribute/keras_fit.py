"""Stock `model.fit`, `evaluate` and `predict` of Keras 3 on several workers.

`tf_lars.create_strategy` calls `install` when it joins several workers. Unpatched, Keras 3.10 to
3.15 fail there at the first batch, and shuffle arrays in an order that each worker draws for itself
(keras-team/keras#20329, #20582, #20585). With these few functions patched, every example is seen
once per epoch, and the weights are bit-identical on all workers and equal to those of one process
on the whole batch. `tf_lars.Trainer` needs none of this and is faster.

Measured with two processes on CPUs, TensorFlow 2.21:

| feature                                   | stock Keras        | with this patch               |
|-------------------------------------------|--------------------|-------------------------------|
| `fit`, `evaluate`, `train_on_batch`       | ends with an error | works                         |
| `predict`                                 | works              | works                         |
| `predict_on_batch`                        | all workers' rows  | the same                      |
| order of arrays, no seed                  | drawn per worker:  | drawn once per epoch: every   |
|                                           | examples repeated, | example once                  |
|                                           | others left out    |                               |
| order of arrays after `set_random_seed`   | every epoch alike, | a new one every epoch         |
|                                           | as in one process  |                               |
| logs after a batch                        | error              | means over the workers        |
| logs of an epoch, metrics, `val_...`      | error              | over all examples             |
| sample and class weights,                 | error              | works                         |
| `validation_split`, several outputs       |                    |                               |
| BatchNormalization                        | statistics of each | averaged over the workers     |
|                                           | worker             | before a validation and a     |
|                                           |                    | callback of the epoch's end   |
| BatchNormalization(synchronized=True)     | error              | works                         |
| mixed_bfloat16, AdamW, SGD, LARS          | error              | works                         |
| clipping by LARS                          | error              | of the summed gradients       |
| clipping by Keras's own optimizers        | before the sum:    | refused                       |
|                                           | a longer step      |                               |
| mixed_float16 with Keras's loss scaling   | workers disagree   | refused; works with           |
|                                           | and deadlock       | tf_lars's LossScaleOptimizer  |
| EMA of weights by LARS                    | error              | works                         |
| EMA by Keras's optimizers                 | error              | works; refused with           |
|                                           |                    | `ema_overwrite_frequency`     |
| gradient_accumulation_steps               | error              | refused                       |
| steps_per_execution > 1                   | error              | refused; `predict` works      |
| jit_compile=True                          | aborts the process | refused; `predict` works      |
| run_eagerly=True                          | error              | refused: NaN where a worker   |
|                                           |                    | has no example of a batch     |
| EarlyStopping, ReduceLROnPlateau,         | error              | works, on every worker        |
| LearningRateScheduler, TerminateOnNaN     |                    |                               |
| TensorBoard                               | error              | works                         |
| ModelCheckpoint, CSVLogger,               | error; one path on | works on one worker, or with  |
| BackupAndRestore                          | two workers: HDF5  | a path for each; one path on  |
|                                           | cannot lock it     | several is refused            |
| `tf.data.Dataset`                         | error              | works; a `shuffle` needs the  |
|                                           |                    | same seed on all workers, and |
|                                           |                    | BatchNormalization batches of |
|                                           |                    | one size (`drop_remainder`)   |
| PyDataset, generators                     | each worker's own  | refused                       |
|                                           | order              |                               |

`batch_size` is the size of the global batch. The last batch of an epoch may be smaller; if it does
not divide among the workers, its examples are weighted slightly differently in that step. A
callback that stops training or sets the learning rate must do so on all workers: `fit` checks at
the end of each epoch that they agree. Within an epoch this cannot be checked.
"""

import contextlib
import functools
import hashlib
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from tf_lars.data import order
from tf_lars.distribute.batch_norm import BatchNormStatistics
from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.loss_scale import LossScaleOptimizer
from tf_lars.private_api import (
    array_adapter,
    dataset_adapter,
    fit_owners,
    is_multi_worker,
    strategy_of,
)

FIRST, LAST = (3, 10), (3, 15)
"""Oldest and newest release of Keras with which the patch was tested."""

stock: dict[str, Callable] = {}
"""Keras's original functions by name, once they have been replaced."""


def install() -> bool:
    """Replaces the broken functions of Keras, once; other strategies still use the originals.

    Returns:
      Whether the replacements support this release of Keras; other releases are left unchanged.
    """
    if not FIRST <= tuple(map(int, keras.__version__.split(".")[:2])) <= LAST:
        logging.warning(
            "model.fit on several workers was tested with Keras %d.%d to %d.%d only. Keras %s is "
            "left unchanged. Use tf_lars.Trainer instead.",
            *FIRST,
            *LAST,
            keras.__version__,
        )
        return False
    if not stock:
        replacements: dict[str, Callable] = {
            "fit": _fit,
            "_maybe_symbolic_build": _maybe_symbolic_build,
            "__init__": _make_epoch_iterator,
            "reduce_per_replica": _reduce_per_replica,
        }
        for name, owner in fit_owners().items():
            original = stock[name] = getattr(owner, name)
            replacement: Any = replacements[name]
            setattr(owner, name, functools.wraps(original)(replacement))
    return True


def _fit(self, *args, **kwargs):
    call = inspect.signature(stock["fit"]).bind(self, *args, **kwargs).arguments
    strategy = strategy_of(self)
    if strategy is None:
        raise InputError(
            "A model trained by several workers must be created in the scope of their strategy. "
            f"Received: {self.name!r}, created outside. Create and compile it under "
            "`with strategy.scope():`."
        )
    if is_multi_worker(strategy):
        _check_sizes(call, strategy.num_replicas_in_sync)
        given = call.get("callbacks")
        if isinstance(given, keras.callbacks.CallbackList):
            given.callbacks = _with_ours(given.callbacks, strategy)
            given.set_model(self)
        else:
            call["callbacks"] = _with_ours(tf.nest.flatten(given or []), strategy)
    return stock["fit"](**call)


def _with_ours(callbacks: list, strategy: tf.distribute.Strategy) -> list:
    _check_paths(callbacks, strategy)
    return [_AverageBatchNorm(), *callbacks, _Agreement()]


def _maybe_symbolic_build(self, iterator=None, data_batch=None):
    """Builds a model from a local batch; Keras would fail to average distributed batches here."""
    strategy = strategy_of(self)
    if strategy and is_multi_worker(strategy):
        _check_model(self)
        if iterator is not None:
            *_, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
            iterator = None
    stock["_maybe_symbolic_build"](self, iterator, data_batch)


def _reduce_per_replica(values, strategy, reduction):
    """Averages scalar logs over the workers; Keras would reduce them along their first axis.

    All workers get the same numbers, so that callbacks make the same decisions on all of them.
    """
    if reduction not in ("auto", "mean") or not is_multi_worker(strategy):
        return stock["reduce_per_replica"](values, strategy, reduction)

    def mean(*values):
        numbers = [tf.cast(value, tf.float32) for value in values]
        return tf.distribute.get_replica_context().all_reduce("MEAN", numbers)

    means = strategy.run(mean, args=tuple(tf.nest.flatten(values)))
    means = [strategy.experimental_local_results(value)[0] for value in means]
    return tf.nest.pack_sequence_as(values, means)


def _make_epoch_iterator(self, distribute_strategy=None, *args, **kwargs):
    """Shuffles in one order for all workers; Keras would have each draw its own order here."""
    if not is_multi_worker(distribute_strategy):
        stock["__init__"](self, distribute_strategy, *args, **kwargs)
        return
    seed = _number_of_chief(distribute_strategy)
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def shuffle(indices):
        key = tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])
        return tf.random.experimental.stateless_shuffle(indices, key)

    with _replaced(tf.random, "shuffle", shuffle):
        stock["__init__"](self, distribute_strategy, *args, **kwargs)
    adapter: Any = self.data_adapter
    if not isinstance(adapter, (array_adapter(), dataset_adapter())):
        raise InputError(
            "On several workers, Keras can distribute only arrays or a tf.data.Dataset. Received: "
            f"data for its {type(adapter).__name__}. Use tf.data.Dataset.from_generator, or "
            "tf_lars.Trainer."
        )
    if isinstance(adapter, array_adapter()):
        setattr(adapter, "on_epoch_begin", lambda: epoch.assign_add(1))  # noqa: B010


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _number_of_chief(strategy: tf.distribute.Strategy) -> int:
    """Returns a random number of the chief, on all workers; Python's seed determines it."""
    return int(_gather(strategy, [random.getrandbits(31)], tf.int64)[0])


def _gather(strategy: tf.distribute.Strategy, values: list, dtype: tf.DType) -> np.ndarray:
    """Returns the lists of all workers, concatenated by rank; none may be empty."""
    return strategy.gather(tf.constant(values, dtype), axis=0).numpy()


class _AverageBatchNorm(keras.callbacks.Callback):
    """Averages the statistics before the user's callbacks, which may save the model."""

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        self._statistics = BatchNormStatistics(
            self.model, strategy, keras.utils.unpack_x_y_sample_weight
        )

    def on_test_begin(self, logs=None):
        self._statistics.average()

    def on_epoch_end(self, epoch, logs=None):
        self._statistics.average()


class _Agreement(keras.callbacks.Callback):
    """Checks after the user's callbacks that workers agree, and ends the run if they do not."""

    def on_epoch_end(self, epoch, logs=None):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        mine = [float(self.model.stop_training), rate]
        all_ = _gather(self.model.distribute_strategy, mine, tf.float64).reshape(-1, 2)
        if (all_ != all_[0]).any():
            raise InputError(
                "A callback that stops training or sets the learning rate must do so on every "
                f"worker. Received: stop_training={all_[:, 0].astype(bool).tolist()} and rates "
                f"{all_[:, 1].tolist()} by rank, after epoch {epoch + 1}. Pass the same callbacks "
                "on every worker."
            )


_WRITERS = {
    keras.callbacks.BackupAndRestore: "backup_dir",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.ModelCheckpoint: "filepath",
}


def _check_paths(callbacks: list, strategy: tf.distribute.Strategy) -> None:
    paths = {}
    for callback in callbacks:
        for kind, attribute in _WRITERS.items():
            if isinstance(callback, kind):
                path = str(getattr(callback, attribute))
                digest = hashlib.sha256(path.encode()).digest()
                paths[int.from_bytes(digest[:7], "little")] = f"{kind.__name__} with {path!r}"
    everyone = _gather(strategy, [0, *paths], tf.int64).tolist()
    twice = sorted({path for path in everyone if path and everyone.count(path) > 1})
    if twice:
        raise InputError(
            "Two workers must not write to the same file. Received on several workers: "
            f"{paths.get(twice[0], 'a callback that writes')}. Pass this callback on worker 0 "
            "only, or give each worker its own path."
        )


def _check_sizes(call: dict[str, Any], workers: int) -> None:
    """Raises an error if batches do not divide, or leave a worker without an example."""
    x = tf.nest.flatten(call.get("x"))[0]
    if isinstance(x, tf.data.Dataset) or not hasattr(x, "shape"):
        return
    size = call.get("batch_size") or 32
    order.per_replica_batch_size(size, workers)
    examples = x.shape[0]
    if call.get("validation_split") and call.get("validation_data") is None:
        examples = int(np.floor(examples * (1 - call["validation_split"])))
    rest = examples % size
    if 0 < rest < workers and not call.get("steps_per_epoch"):
        raise InputError(
            f"The last batch must have an example for each of the {workers} workers. Received: "
            f"{examples} examples in batches of {size}, which leave {rest}. Leave out that rest."
        )


def _check_model(model: keras.Model) -> None:
    """Raises an error if a model would crash, hang or train wrongly on several workers."""
    if model.steps_per_execution > 1:
        raise InputError(
            "On several workers, Keras runs one step per call. Received: steps_per_execution="
            f"{model.steps_per_execution}. Remove it, or use "
            f"tf_lars.Trainer(model, steps_per_loop={model.steps_per_execution})."
        )
    for setting in ("jit_compile", "run_eagerly"):
        if getattr(model, setting):
            raise InputError(
                f"On several workers, Keras cannot train with {setting}. Received: {setting}=True. "
                f"Compile the model with {setting}=False, or train it with tf_lars.Trainer."
            )
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        if not isinstance(optimizer, LossScaleOptimizer):
            raise InputError(
                "Loss scaling must make the same decision on all workers. Received: Keras's "
                "LossScaleOptimizer, with which workers disagree and deadlock. "
                "Compile with tf_lars.optimizers.loss_scale.LossScaleOptimizer(optimizer)."
            )
        optimizer = optimizer.inner_optimizer
    if optimizer is None or isinstance(optimizer, LARS):
        return
    clips = [n for n in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(optimizer, n)]
    if clips:
        raise InputError(
            "On several workers, Keras's optimizers clip gradients before summing them, which "
            f"changes the step. Received: {type(optimizer).__name__} with {clips[0]}. Use "
            "tf_lars.LARS, or tf_lars.Trainer with any optimizer."
        )
    if optimizer.gradient_accumulation_steps:
        raise InputError(
            "On several workers, Keras's optimizers cannot accumulate gradients. Received: "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. Use "
            "tf_lars.Trainer(model, micro_batch_size=...)."
        )
    if optimizer.use_ema and optimizer.ema_overwrite_frequency:
        raise InputError(
            "On several workers, Keras's optimizers cannot overwrite weights with their averages. "
            f"Received: ema_overwrite_frequency={optimizer.ema_overwrite_frequency}. Remove it: "
            "fit assigns the averages to the weights when it ends."
        )

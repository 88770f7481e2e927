"""Stock `model.fit`, `evaluate` and `predict` of Keras 3 on several workers.

`tf_lars.create_strategy` calls `install` when it joins several workers. Unpatched, Keras 3.10 to
3.15 fail there at the first batch, and shuffle arrays in an order that each worker draws for itself
(keras-team/keras#20329, #20582, #20585). With these functions patched, every example is seen once
per epoch, and the weights are bit-identical on all workers and equal to those of one process on the
whole batch. Models made outside the strategy's scope, and other strategies, get Keras's own
functions. `tf_lars.Trainer` needs none of this and is faster.

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
| own `train_step`, `test_step`, with or    | error              | works: losses and gradients   |
| without `call` (VAE, GAN)                 |                    | are means over the workers    |
| own `compute_loss`, losses that are no    | error; gradients   | works                         |
| `Loss` object or a single number          | summed             |                               |
| a loss divided by the number of workers   | error              | divided twice: remove it      |
| a compiled loss with `reduction=None`     | error              | refused                       |
| a loss among the examples of a batch      | error              | of each worker's part         |
| (contrastive)                             |                    |                               |
| `add_loss` of a sum over the batch (Keras | error              | mean of the workers' sums     |
| 3.10's activity regularisers)             |                    |                               |
| variables that a step assigns itself      | error              | of each worker (a queue of    |
|                                           |                    | features, for example)        |
| BatchNormalization                        | statistics of each | averaged over the workers     |
|                                           | worker             | before a validation and a     |
|                                           |                    | callback of the epoch's end   |
| BatchNormalization(synchronized=True)     | error              | works                         |
| mixed_bfloat16, AdamW, SGD, LARS,         | error              | works                         |
| several optimizers                        |                    |                               |
| clipping by LARS                          | error              | of the averaged gradients     |
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
| BackupAndRestore                          | error; one folder  | works on every worker: with   |
|                                           | on two workers:    | one folder, which the first   |
|                                           | HDF5 cannot lock   | one writes and all read, or   |
|                                           | its file           | one each; refused on some     |
| ModelCheckpoint, CSVLogger                | error; one path on | works on one worker, or with  |
|                                           | two workers: the   | a path for each; one path on  |
|                                           | same               | several is refused            |
| `tf.data.Dataset`                         | error              | works; a `shuffle` needs the  |
|                                           |                    | same seed on all workers, and |
|                                           |                    | BatchNormalization batches of |
|                                           |                    | one size (`drop_remainder`)   |
| `keras.utils.PyDataset`                   | each worker's own  | works; refused if its targets |
|                                           | order              | differ between workers        |
| generators                                | each worker's own  | refused; Trainer takes them   |
|                                           | order              |                               |
| workers that differ in method, epochs,    | wait forever       | end with a sentence, at the   |
| steps, iterations or weights              |                    | start of a call or an epoch   |
| a worker that is lost, does something     | the others wait    | the others end with a         |
| else or stops within an epoch             | forever            | sentence, after `wait_seconds`|
|                                           |                    | at the latest                 |

`batch_size`, or the size of a batch of a dataset, is that of the global batch. The last batch of an
epoch may be smaller; if it does not divide among the workers, its examples are weighted slightly
differently in that step. A callback that stops training, sets the learning rate or restores a model
must do so on all workers.
"""

import contextlib
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_lars.distribute.fit_callbacks import on_this_worker
from tf_lars.distribute.fit_checks import check_model, check_sizes
from tf_lars.distribute.meeting import check_equal, gather, meet, watch
from tf_lars.distribute.same_batches import SameBatches
from tf_lars.distribute.whole_batch_losses import replacements, within_step
from tf_lars.errors import InputError
from tf_lars.private_api import (
    data_adapter,
    fit_owners,
    is_multi_worker,
    on_each_step,
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
        replaced: dict[str, Callable] = {
            "fit": _fit,
            "evaluate": _met("evaluate"),
            "predict": _met("predict"),
            "train_on_batch": _watched("train_on_batch"),
            "test_on_batch": _watched("test_on_batch"),
            "predict_on_batch": _watched("predict_on_batch"),
            "_make_function": _make_function,
            "_maybe_symbolic_build": _maybe_symbolic_build,
            "__init__": _make_epoch_iterator,
            "reduce_per_replica": _reduce_per_replica,
            **replacements(stock),
        }
        for name, owner in fit_owners().items():
            original = stock[name] = getattr(owner, name)
            replacement: Any = replaced[name]
            setattr(owner, name, functools.wraps(original)(replacement))
    return True


def _fit(self, *args, **kwargs):
    strategy = self.distribute_strategy
    if not is_multi_worker(strategy):
        if strategy_of(self) is None:
            logging.log_first_n(
                logging.WARNING,
                "fit trains a model on this worker alone if it was created outside the strategy's "
                "scope, as %r was.",
                1,
                self.name,
            )
        return stock["fit"](self, *args, **kwargs)
    call = inspect.signature(stock["fit"]).bind(self, *args, **kwargs).arguments
    with watch.over("fit"):
        meet(strategy, "fit", _refusal(self, call, strategy))
        epochs, first = call.get("epochs", 1), call.get("initial_epoch", 0)
        validates = call.get("validation_data") is not None or bool(call.get("validation_split"))
        check_equal(
            strategy,
            {"validation": validates, "epochs": epochs},
            "All workers must call fit with the same arguments.",
            "Run the same program on every worker.",
        )
        given: Any = call.get("callbacks")
        is_list = isinstance(given, keras.callbacks.CallbackList)
        callbacks = on_this_worker(
            given.callbacks if is_list else tf.nest.flatten(given or []),
            strategy,
            epochs=epochs,
            initial_epoch=first,
        )
        if not is_list:
            return stock["fit"](**{**call, "callbacks": callbacks})
        with _replaced(given, "callbacks", callbacks):
            given.set_model(self)
            return stock["fit"](**call)


def _refusal(model, call: dict[str, Any], strategy: tf.distribute.Strategy) -> InputError | None:
    """Returns why this worker cannot take part in a call of `fit`, or None."""
    if strategy_of(model) is None:
        return InputError(
            "A model trained by several workers must be created in the scope of their strategy. "
            f"Received: {model.name!r}, created outside. Create and compile it under "
            "`with strategy.scope():`, or call fit outside of it, for this worker alone."
        )
    try:
        check_sizes(call, strategy.num_replicas_in_sync)
    except InputError as error:
        return error
    return None


def _met(name: str) -> Callable:
    """Returns a method that workers begin together, unless it is part of `fit`."""

    def method(self, *args, **kwargs):
        strategy = self.distribute_strategy
        if not is_multi_worker(strategy):
            return stock[name](self, *args, **kwargs)
        with watch.over(name) as is_outermost:
            if is_outermost:
                meet(strategy, name)
            return stock[name](self, *args, **kwargs)

    return method


def _watched(name: str) -> Callable:
    """Returns a method that limits how long a worker waits for the others."""

    def method(self, *args, **kwargs):
        if not is_multi_worker(self.distribute_strategy):
            return stock[name](self, *args, **kwargs)
        with watch.over(name):
            return stock[name](self, *args, **kwargs)

    return method


def _make_function(self, step_function):
    if is_multi_worker(strategy_of(self)):
        step_function = within_step(step_function)
    return stock["_make_function"](self, step_function)


def _maybe_symbolic_build(self, iterator=None, data_batch=None):
    """Builds a model from a local batch; Keras would fail to average distributed batches here.

    A model with its own step need not have a `call`, or one that takes the data. It is built
    when its step is traced, as without a strategy.
    """
    strategy = strategy_of(self)
    if strategy and is_multi_worker(strategy):
        check_model(self)
        if any(getattr(type(self), n) is not getattr(keras.Model, n) for n in _STEPS):
            return
        if iterator is not None:
            data_batch, iterator = _local_batch(iterator, strategy), None
    stock["_maybe_symbolic_build"](self, iterator, data_batch)


_STEPS = ("train_step", "test_step")


def _local_batch(iterator, strategy: tf.distribute.Strategy) -> Any:
    source = getattr(iterator.data_adapter, "py_dataset", None)
    if source is not None:  # an epoch of it may begin only after its order was drawn
        return tf.nest.map_structure(tf.convert_to_tensor, source[0])
    *_, batches = next(iter(iterator))
    return tf.nest.map_structure(
        lambda value: strategy.experimental_local_results(value)[0], next(batches)
    )


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
    strategy = distribute_strategy
    if not is_multi_worker(strategy):
        stock["__init__"](self, strategy, *args, **kwargs)
        return
    seed = _number_of_chief(strategy)
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def shuffle(indices):
        key = tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])
        return tf.random.experimental.stateless_shuffle(indices, key)

    source = kwargs.get("x")
    if isinstance(source, keras.utils.PyDataset):
        kwargs["x"] = SameBatches(source, strategy, seed=seed, shuffle=kwargs.pop("shuffle", False))
    with _replaced(tf.random, "shuffle", shuffle):
        stock["__init__"](self, strategy, *args, **kwargs)
    adapter: Any = self.data_adapter
    readers = ("ArrayDataAdapter", "TFDatasetAdapter", "PyDatasetAdapter")
    if not isinstance(adapter, tuple(map(data_adapter, readers))):
        raise InputError(
            "On several workers, Keras's fit takes arrays, a tf.data.Dataset or a "
            f"keras.utils.PyDataset. Received: data for its {type(adapter).__name__}. Make one of "
            "these of it, or use tf_lars.Trainer(model).fit, which takes generators, too."
        )
    if isinstance(adapter, data_adapter("ArrayDataAdapter")):
        setattr(adapter, "on_epoch_begin", lambda: epoch.assign_add(1))  # noqa: B010
    check_equal(
        strategy,
        {"batches": self.num_batches or 0},
        "All workers must take the same number of batches.",
        "Give all workers the same data and the same number of steps: each takes its part of every "
        "batch.",
    )
    on_each_step(self, watch.step)


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
    return int(gather(strategy, [random.getrandbits(31)], tf.int64)[0])

"""Checks that a model trains identically on any number of replicas."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.data import order
from tf_lars.distribute.grouped_batch_norm import group_sizes
from tf_lars.distribute.meeting import check_equal
from tf_lars.errors import InputError
from tf_lars.private_api import call_model, is_multi_worker, layers_of, losses_of, strategy_of
from tf_lars.training.batch import Batch
from tf_lars.training.mean_loss import averaged_over, mean_loss


def check_compiled(model: keras.Model) -> None:
    """Checks a model before it is built.

    Raises:
      InputError: If the model is not compiled or overrides Keras's steps, a loss is not a mean, or
        the optimizer accumulates gradients.
    """
    if not model.compiled or model.optimizer is None:
        raise InputError(
            "Trainer needs a compiled model. Received: a model without an optimizer. Call "
            "model.compile(optimizer=..., loss=...) in the strategy's scope first."
        )
    for name in ("train_step", "test_step", "compute_metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise InputError(
                "Trainer takes its own steps, based on the model's call, loss and metrics. "
                f"Received: {type(model).__name__}, which overrides {name}. Move that code into "
                "call, compute_loss or compile(metrics=...), or use Keras's fit."
            )
    for loss in tf.nest.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in ("sum_over_batch_size", "mean"):
            raise InputError(
                'A loss must have the reduction "sum_over_batch_size", so that it is a mean '
                f"over the global batch. Received: {reduction!r}."
            )
    if model.optimizer.gradient_accumulation_steps:
        raise InputError(
            "Trainer accumulates gradients itself. Received: an optimizer with "
            f"gradient_accumulation_steps={model.optimizer.gradient_accumulation_steps}. "
            "Remove it, make the accumulated batch the global batch, and set micro_batch_size."
        )


def strategy_for(
    model: keras.Model, strategy: tf.distribute.Strategy | None
) -> tf.distribute.Strategy:
    """Returns the strategy to train a model under: the one in whose scope it was made.

    Args:
      model: Model to train.
      strategy: Strategy that the caller asks for; None for the model's.

    Raises:
      InputError: If the model was not made in the scope of the strategy that is asked for.
    """
    own = strategy_of(model)
    if strategy is None:
        return own or tf.distribute.get_strategy()
    if strategy is not own and (own is not None or strategy.num_replicas_in_sync > 1):
        where = "another one" if own else "none"
        raise InputError(
            "A model must be made in the scope of the strategy that trains it. Received: "
            f"{type(strategy).__name__}, and a model made in that of {where}. Create and compile "
            "the model within `with strategy.scope():`."
        )
    return strategy


def check_same_data(strategy: tf.distribute.Strategy, *sources: Any) -> None:
    """Checks that all workers were given the same data, of which each takes its part.

    Args:
      strategy: Strategy of the workers, each of which must call this.
      *sources: Data that have a `fingerprint`; others, of this package, are not checked.

    Raises:
      InputError: If the data differ.
    """
    if not is_multi_worker(strategy):
        return
    for source in sources:
        if hasattr(source, "fingerprint"):
            check_equal(
                strategy,
                {"checksum": source.fingerprint()},
                "All workers must be given the same data in the same order, of which each takes "
                "its part.",
                "Give shuffle and random operations a seed, or call keras.utils.set_random_seed "
                "first.",
            )


def check_losses(model: keras.Model, batch: Batch) -> None:
    """Checks that each loss returns one value per example, not one number for the whole batch.

    Keras passes such a number on unchanged: it would not be divided by the number of replicas, and
    would count the padding of an evaluation.

    Args:
      model: Compiled and built model.
      batch: Tensors like those of a replica's batch; their values are not used.

    Raises:
      InputError: If a loss returns a single number.
    """
    losses = losses_of(model)
    # Several outputs may share a loss.
    unknown = {id(loss): loss for loss in losses if loss and not _is_known(loss)}.values()
    if not unknown:
        return

    def once(x, y, sample_weight):
        one = Batch(x, y, sample_weight)
        with averaged_over(one, one_pass=False):
            y_pred = call_model(model, x, training=False)
            mean_loss(model, one, y_pred, training=False)

    with contextlib.ExitStack() as stack:
        for loss in unknown:
            stack.enter_context(_one_value_per_example(loss))
        tf.function(once, autograph=False).get_concrete_function(*batch[:3])


def check_batch_norm(
    model: keras.Model,
    replicas: int,
    share: int,
    *,
    micro_batch_size: int | str | None,
    jit_compile: bool,
) -> None:
    """Checks that batch normalisation can see the examples that it normalises together.

    Args:
      model: Built model.
      replicas: Number of replicas of the strategy.
      share: Number of examples of each replica in the global batch.
      micro_batch_size: Number of examples that a replica processes at a time; None for its share,
        "auto" for a part of it that is not known yet.
      jit_compile: Whether the forward pass is compiled with XLA.

    Raises:
      InputError: If groups of examples do not fit into the batch, or replicas that normalise
        together cannot wait for each other.
    """
    groups = group_sizes(model)
    for size in groups:
        known = micro_batch_size if isinstance(micro_batch_size, int) else None
        order.check_batch_norm_group(size, share=share, replicas=replicas, micro_batch_size=known)
    in_parts = micro_batch_size not in (None, share)
    if replicas == 1 or not (in_parts or jit_compile):
        return
    synchronized = any(getattr(layer, "synchronized", False) for layer in layers_of(model))
    if synchronized or max(groups, default=0) > share:
        what = "synchronized batch normalisation"
        if not synchronized:
            what = "batch normalisation over several replicas"
        raise InputError(
            f"On several replicas, {what} needs each replica's whole share in one pass, without "
            f"XLA. Received: {'micro-batches' if in_parts else 'jit_compile'}. Remove one of the "
            "two."
        )


def _is_known(loss: keras.losses.Loss) -> bool:
    """Returns whether a loss is one of Keras's that return one value per example."""
    function = getattr(loss, "fn", None)
    return (
        function is not None
        and type(loss).__module__.startswith("keras.")
        and function.__module__.startswith("keras.")
        and function.__name__ not in ("dice", "tversky")  # reduce over all axes by default
    )


@contextlib.contextmanager
def _one_value_per_example(loss: keras.losses.Loss) -> Iterator[None]:
    """Within this context, a loss raises an InputError if it returns a single number."""
    call = loss.call

    def checked(y_true, y_pred):
        values = call(y_true, y_pred)
        if tf.convert_to_tensor(values).shape.rank == 0:
            raise InputError(
                "A loss must return one value per example, so that it can be averaged over the "
                f"global batch. Received: {loss.name}, which returns a single number. Average over "
                "all axes except the first."
            )
        return values

    loss.call = checked
    try:
        yield
    finally:
        del loss.call

"""What a model must be like, so that any number of replicas trains it to the same result."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.private_api import call_model, compute_loss, layers_of, losses_of


def check_compiled(model: keras.Model) -> None:
    """Checks what is known of a model before it is built.

    Raises:
      InputError: it is not compiled, takes steps of its own, a loss is no mean, or the optimizer
        accumulates gradients.
    """
    if not model.compiled or model.optimizer is None:
        raise InputError(
            "Trainer needs a compiled model. Received: one without an optimizer. Call "
            "model.compile(optimizer=..., loss=...) in the strategy's scope first."
        )
    for name in ("train_step", "test_step", "compute_metrics"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise InputError(
                "Trainer takes the steps itself, from the model's call, loss and metrics. "
                f"Received: {type(model).__name__}, which has a {name} of its own. Move that into "
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
            "Leave that out, name the whole batch as the global batch, and set micro_batch_size."
        )


def check_losses(model: keras.Model, x: Any, y: Any, sample_weight: Any) -> None:
    """Checks that each loss gives a value for every example, not one number for all of them.

    Keras hands such a number on as it is: it would not be divided by the number of replicas, and
    would count the padding of an evaluation.

    Args:
      model: compiled and built.
      x, y, sample_weight: tensors like a replica's batch; their values are not looked at.

    Raises:
      InputError: a loss gives one number.
    """
    losses = losses_of(model)
    # One may be that of several outputs.
    unknown = {id(loss): loss for loss in losses if loss and not _is_known(loss)}.values()
    if not unknown:
        return

    def once(*batch):
        y_pred = call_model(model, batch[0], training=False)
        compute_loss(model, batch[0], batch[1], y_pred, batch[2], training=False)

    with contextlib.ExitStack() as stack:
        for loss in unknown:
            stack.enter_context(_one_value_per_example(loss))
        tf.function(once, autograph=False).get_concrete_function(x, y, sample_weight)


def check_batch_norm(
    model: keras.Model, replicas: int, *, in_parts: bool, jit_compile: bool
) -> None:
    """Checks that replicas can wait for each other in batch normalisation, where they must.

    Args:
      model: built.
      replicas: of the strategy.
      in_parts: whether a replica takes its share in micro-batches, or is to try so.
      jit_compile: whether its forward pass is compiled with XLA.

    Raises:
      InputError: normalisation is synchronized and they cannot.
    """
    if replicas == 1 or not (in_parts or jit_compile):
        return
    if any(getattr(layer, "synchronized", False) for layer in layers_of(model)):
        raise InputError(
            "Synchronized batch normalisation, on several replicas, needs the whole share of each "
            "at once, and no XLA. Received: "
            f"{'micro-batches' if in_parts else 'jit_compile'}. Leave out one of the two."
        )


def _is_known(loss: keras.losses.Loss) -> bool:
    """Returns whether this is one of Keras's own losses that give a value per example."""
    function = getattr(loss, "fn", None)
    return (
        function is not None
        and type(loss).__module__.startswith("keras.")
        and function.__module__.startswith("keras.")
        and function.__name__ not in ("dice", "tversky")  # by default over all axes
    )


@contextlib.contextmanager
def _one_value_per_example(loss: keras.losses.Loss) -> Iterator[None]:
    """Within this context a loss raises an InputError when it gives one number."""
    call = loss.call

    def checked(y_true, y_pred):
        values = call(y_true, y_pred)
        if tf.convert_to_tensor(values).shape.rank == 0:
            raise InputError(
                "A loss must give one value per example, so that it can be a mean over the global "
                f"batch. Received: {loss.name}, which gives one number. Take the mean over all "
                "axes but the first."
            )
        return values

    loss.call = checked
    try:
        yield
    finally:
        del loss.call

"""What Keras's `fit` on several workers refuses before it starts."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_lars.data import order
from tf_lars.errors import InputError
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.loss_scale import LossScaleOptimizer


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers of a model: a GAN, for example, has two."""
    found = [model.optimizer, *vars(model).values()]
    kind = keras.optimizers.Optimizer
    return list({id(one): one for one in found if isinstance(one, kind)}.values())


def check_sizes(call: Mapping[str, Any], workers: int) -> None:
    """Checks that batches of arrays divide, and leave no worker without an example.

    Args:
      call: Arguments of `fit` by name.
      workers: Number of workers.

    Raises:
      InputError: If they do not.
    """
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


def check_model(model: keras.Model) -> None:
    """Checks that a model would not crash, hang or train wrongly on several workers.

    Args:
      model: Compiled model.

    Raises:
      InputError: If it would.
    """
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
    for loss in tf.nest.flatten(getattr(model, "loss", None)):
        if getattr(loss, "reduction", "") in (None, "none"):
            raise InputError(
                "On several workers, a compiled loss must be a mean or a sum over the batch. "
                f"Received: {type(loss).__name__} with reduction={loss.reduction!r}. Use the "
                'reduction "sum_over_batch_size" or "sum".'
            )
    for optimizer in optimizers_of(model):
        _check_optimizer(optimizer)


def _check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        if not isinstance(optimizer, LossScaleOptimizer):
            raise InputError(
                "Loss scaling must make the same decision on all workers. Received: Keras's "
                "LossScaleOptimizer, with which workers disagree and deadlock. "
                "Compile with tf_lars.optimizers.loss_scale.LossScaleOptimizer(optimizer)."
            )
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, LARS):
        return
    clips = [n for n in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(optimizer, n)]
    if clips:
        raise InputError(
            "On several workers, Keras's optimizers clip gradients before averaging them, which "
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

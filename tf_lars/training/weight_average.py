"""Evaluation with the exponential moving average of the weights."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.variables import native_variable
from tf_lars.private_api import moving_averages


class WeightAverage:
    """Averages that an optimizer keeps, swapped with the weights during evaluation.

    Args:
      optimizer: Optimizer with `use_ema=True`, which averages its variables after each step.
      strategy: Strategy in whose scope the model was created.

    Raises:
      InputError: If the optimizer keeps no average.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy):
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not self._optimizer.use_ema:
            raise InputError(
                "Evaluating averaged weights needs an optimizer that averages them. Received: "
                f"{self._optimizer.name} with use_ema=False. Set use_ema=True and ema_momentum."
            )
        self._strategy = strategy
        self._swap = tf.function(self._swap_in_graph)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context, the model's trainable variables hold their averages."""
        if int(self._optimizer.iterations.numpy()) == 0:  # nothing to average yet
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap_in_graph(self) -> None:
        def swap(variable, average):
            weights, mean = tf.identity(variable), tf.identity(average)
            variable.assign(mean)
            average.assign(weights)

        for variable, average in moving_averages(self._optimizer):
            self._strategy.extended.update(
                native_variable(variable), swap, args=(average.value,), group=False
            )

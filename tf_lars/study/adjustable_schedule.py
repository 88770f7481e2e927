"""Schedules whose settings can be changed between runs without retracing the step."""

import keras
import tensorflow as tf

from tf_lars import schedule_formulas as formulas


class AdjustableWarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """`tf_lars.schedules.WarmupPolynomial` from 0 and to 0, with its settings in variables.

    Args:
        power: Power of the decay.
    """

    def __init__(self, power: float = 2.0):
        super().__init__()
        self.power = power
        self._peak, self._total_steps, self._warmup_steps = (
            tf.Variable(1.0, trainable=False, name=name)
            for name in ("peak_learning_rate", "total_steps", "warmup_steps")
        )

    def set(self, peak_learning_rate: float, total_steps: int, warmup_steps: int) -> None:
        """Sets the rate at the end of the warm-up, and the steps of the run and of its warm-up."""
        self._peak.assign(peak_learning_rate)
        self._total_steps.assign(total_steps)
        self._warmup_steps.assign(warmup_steps)

    def __call__(self, step):
        """Returns the rate at `step` as a float32 scalar."""
        step = tf.cast(step, tf.float32)
        # `formulas.warmup` and `formulas.fraction_left` take Python numbers, not variables.
        rising = self._peak * (step / tf.maximum(self._warmup_steps, 1.0))
        decay_steps = tf.maximum(self._total_steps - self._warmup_steps, 1.0)
        left = tf.maximum(self._total_steps - tf.maximum(step, self._warmup_steps), 0.0)
        decayed = formulas.polynomial(left / decay_steps, self._peak, 0.0, self.power)
        return tf.where(step < self._warmup_steps, rising, decayed)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"power": self.power}


class AdjustableRate(keras.optimizers.schedules.LearningRateSchedule):
    """A constant rate in a variable, which is not part of the optimizer's state."""

    def __init__(self):
        super().__init__()
        self._rate = tf.Variable(0.0, trainable=False, name="learning_rate")

    def set(self, learning_rate: float) -> None:
        """Sets the rate."""
        self._rate.assign(learning_rate)

    def __call__(self, step):
        """Returns the rate as a float32 scalar."""
        return tf.identity(self._rate)

    def get_config(self):
        """Returns the constructor's arguments, of which there are none."""
        return {}

"""Learning rates by step: linear warm-up, then decay.

A schedule is a function of the optimizer's step s, counted from 0:

    rate(s) = i + (p - i) * s/w        for s < w        (warm-up)
    rate(s) = p * decay                for s >= w

with the initial rate i (0 unless given), the peak p and w warm-up steps. So the very first step of
a warm-up from 0 has the rate 0, and step w is the first with the rate p, as in MLPerf's TensorFlow
reference. Every schedule computes its value in the graph, from the traced step: changing it between
steps retraces nothing.
"""

import keras
import tensorflow as tf

from tf_lars import schedule_formulas as formulas
from tf_lars.errors import InputError
from tf_lars.scaling import linear_scaling, square_root_scaling

__all__ = [
    "Warmup",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupDecay",
    "WarmupPolynomial",
    "WarmupStep",
    "create",
    "linear_scaling",
    "square_root_scaling",
]


def create(
    name,
    *,
    peak_learning_rate,
    total_steps,
    warmup_steps=0,
    initial_learning_rate=0.0,
    power=2.0,
    end_learning_rate=0.0,
):
    """Returns a schedule by name: "polynomial", "cosine", "step" or "constant".

    Args:
        name: of what follows the warm-up.
        peak_learning_rate: p, the rate at the end of the warm-up.
        total_steps: T, the steps of the whole run.
        warmup_steps: w.
        initial_learning_rate: i, the rate at step 0 of a warm-up.
        power: of the polynomial; no other schedule reads it.
        end_learning_rate: e, of the polynomial and the cosine; no other schedule reads it.

    Raises:
        InputError: no such schedule, or the schedule refuses its numbers.
    """
    common = dict(warmup_steps=warmup_steps, initial_learning_rate=initial_learning_rate)
    if name == "polynomial":
        return WarmupPolynomial(
            peak_learning_rate,
            total_steps,
            power=power,
            end_learning_rate=end_learning_rate,
            **common,
        )
    if name == "cosine":
        return WarmupCosine(
            peak_learning_rate, total_steps, end_learning_rate=end_learning_rate, **common
        )
    if name == "step":
        boundaries = formulas.step_boundaries(total_steps)
        return WarmupStep(peak_learning_rate, boundaries, formulas.STEP_DECAY_RATE, **common)
    if name == "constant":
        return WarmupConstant(peak_learning_rate, **common)
    raise InputError(formulas.UNKNOWN.format(name))


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then what a subclass says in `decay`.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        warmup_steps: w, at least 0; 0 starts at the peak.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: a negative number of steps.
    """

    def __init__(self, peak_learning_rate, warmup_steps=0, initial_learning_rate=0.0):
        super().__init__()
        if warmup_steps < 0:
            raise InputError(
                f"`warmup_steps` must be at least 0. Received: warmup_steps={warmup_steps}."
            )
        self.peak_learning_rate = float(peak_learning_rate)
        self.warmup_steps = int(warmup_steps)
        self.initial_learning_rate = float(initial_learning_rate)

    def decay(self, step):
        """Returns the rate at the float32 scalar `step`, which is at least `warmup_steps`."""
        raise NotImplementedError(f"{type(self).__name__} must define `decay(step)`.")

    def __call__(self, step):
        """Returns the rate at `step` as a float32 scalar."""
        step = tf.cast(step, tf.float32)
        after = self.decay(tf.maximum(step, float(self.warmup_steps)))
        i, p = self.initial_learning_rate, self.peak_learning_rate
        return formulas.warmup(tf, step, after, p, self.warmup_steps, i)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
        }


class WarmupDecay(Warmup):
    """Warm-up, then a decay from the peak to `end_learning_rate` at `total_steps`.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        total_steps: T, where the end rate is reached; it stays from there on.
        warmup_steps: w, at most T.
        end_learning_rate: e.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: T is not above 0, or w is above T.
    """

    def __init__(
        self,
        peak_learning_rate,
        total_steps,
        warmup_steps=0,
        end_learning_rate=0.0,
        initial_learning_rate=0.0,
    ):
        super().__init__(peak_learning_rate, warmup_steps, initial_learning_rate)
        if total_steps <= 0 or warmup_steps > total_steps:
            raise InputError(
                "`total_steps` must be above 0 and at least `warmup_steps`. "
                f"Received: total_steps={total_steps}, warmup_steps={warmup_steps}."
            )
        self.total_steps = int(total_steps)
        self.end_learning_rate = float(end_learning_rate)

    def fraction_left(self, step):
        """Returns 1 - (s-w)/(T-w): 1 at the end of the warm-up, 0 from T on."""
        return formulas.fraction_left(tf, step, self.total_steps, self.warmup_steps)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "total_steps": self.total_steps,
            "end_learning_rate": self.end_learning_rate,
        }


@keras.saving.register_keras_serializable(package="tf_lars")
class WarmupPolynomial(WarmupDecay):
    """Warm-up, then rate = e + (p - e) * (1 - (s-w)/(T-w))**power.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        total_steps: T, where the end rate is reached; it stays from there on.
        warmup_steps: w, at most T.
        power: 2 unless given, above 0.
        end_learning_rate: e.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: T is not above 0, w is above T, or the power is not above 0.

    Reference: You et al., "ImageNet Training in Minutes", arXiv:1709.05011; the formula is that of
    mlcommons/training retired_benchmarks/resnet-tf2.
    """

    def __init__(
        self,
        peak_learning_rate,
        total_steps,
        warmup_steps=0,
        power=2.0,
        end_learning_rate=0.0,
        initial_learning_rate=0.0,
    ):
        super().__init__(
            peak_learning_rate, total_steps, warmup_steps, end_learning_rate, initial_learning_rate
        )
        if not power > 0:
            raise InputError(f"`power` must be above 0. Received: power={power}.")
        self.power = float(power)

    def decay(self, step):
        """Returns e + (p - e) * (1 - (s-w)/(T-w))**power."""
        left = self.fraction_left(step)
        return formulas.polynomial(
            left, self.peak_learning_rate, self.end_learning_rate, self.power
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable(package="tf_lars")
class WarmupCosine(WarmupDecay):
    """Warm-up, then rate = e + (p - e) * (1 + cos(pi * (s-w)/(T-w))) / 2.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        total_steps: T, where the end rate is reached; it stays from there on.
        warmup_steps: w, at most T.
        end_learning_rate: e.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: T is not above 0, or w is above T.

    Reference: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, one period.
    """

    def decay(self, step):
        """Returns e + (p - e) * (1 + cos(pi * (s-w)/(T-w))) / 2."""
        left = self.fraction_left(step)
        return formulas.cosine(tf, left, self.peak_learning_rate, self.end_learning_rate)


@keras.saving.register_keras_serializable(package="tf_lars")
class WarmupStep(Warmup):
    """Warm-up, then rate = p * decay_rate**n, where n boundaries are at or below s.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        boundaries: increasing steps, counted from the start of training; each is the first step
            with the lower rate.
        decay_rate: 0.1 unless given, above 0.
        warmup_steps: w.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: the boundaries do not increase, or the rate is not above 0.

    Reference: Goyal et al., arXiv:1706.02677: 0.1 at epochs 30, 60 and 80 of 90.
    """

    def __init__(
        self,
        peak_learning_rate,
        boundaries,
        decay_rate=0.1,
        warmup_steps=0,
        initial_learning_rate=0.0,
    ):
        super().__init__(peak_learning_rate, warmup_steps, initial_learning_rate)
        self.boundaries = [int(step) for step in boundaries]
        if self.boundaries != sorted(set(self.boundaries)):
            raise InputError(f"`boundaries` must increase. Received: boundaries={boundaries}.")
        if not decay_rate > 0:
            raise InputError(f"`decay_rate` must be above 0. Received: decay_rate={decay_rate}.")
        self.decay_rate = float(decay_rate)

    def decay(self, step):
        """Returns p * decay_rate**n."""
        return formulas.staircase(
            tf, step, self.peak_learning_rate, self.boundaries, self.decay_rate
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "boundaries": self.boundaries,
            "decay_rate": self.decay_rate,
        }


@keras.saving.register_keras_serializable(package="tf_lars")
class WarmupConstant(Warmup):
    """Warm-up, then the peak rate for ever.

    Args:
        peak_learning_rate: p, the rate at the end of the warm-up.
        warmup_steps: w.
        initial_learning_rate: i, the rate at step 0 of a warm-up.

    Raises:
        InputError: a negative number of steps.
    """

    def decay(self, step):
        """Returns p."""
        del step  # every step is alike
        return tf.constant(self.peak_learning_rate, tf.float32)

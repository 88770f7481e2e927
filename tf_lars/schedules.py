"""Learning rate schedules: linear warm-up, then decay.

A schedule is a function of the optimizer's step s, counted from 0:

    rate(s) = i + (p - i) * s/w        for s < w        (warm-up)
    rate(s) = p * decay                for s >= w

with the initial rate i (0 by default), the peak p and w warm-up steps. The first step of a warm-up
from 0 therefore has the rate 0, and step w is the first with the rate p, as in MLPerf's TensorFlow
reference. Every schedule computes its rate in the graph from the traced step, without retracing.
"""

import keras
import tensorflow as tf

from tf_lars import schedule_formulas as formulas
from tf_lars.errors import InputError, require
from tf_lars.scaling import linear_scaling, square_root_scaling
from tf_lars.setting import above, at_least, number, whole_number

__all__ = [
    "Ramped",
    "Shifted",
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
        name: Name of the decay after the warm-up.
        peak_learning_rate: Rate at the end of the warm-up, p.
        total_steps: Steps of the whole run, T.
        warmup_steps: Steps of the warm-up, w.
        initial_learning_rate: Rate at step 0 of a warm-up, i.
        power: Power of the polynomial; ignored by the other schedules.
        end_learning_rate: Final rate of the polynomial and the cosine, e; ignored by the others.

    Raises:
        InputError: The schedule is unknown, or a number is out of range.
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
    """Linear warm-up, then the `decay` of a subclass.

    Args:
        peak_learning_rate: Rate at the end of the warm-up, p.
        warmup_steps: Steps of the warm-up, w; 0 starts at the peak.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: A rate is negative or not finite, or `warmup_steps` is not 0, 1, 2, ...
    """

    def __init__(self, peak_learning_rate, warmup_steps=0, initial_learning_rate=0.0):
        super().__init__()
        self.peak_learning_rate = number("`peak_learning_rate`", peak_learning_rate, at_least(0))
        self.warmup_steps = whole_number("`warmup_steps`", warmup_steps, at_least(0))
        self.initial_learning_rate = number(
            "`initial_learning_rate`", initial_learning_rate, at_least(0)
        )

    def decay(self, step):
        """Returns the rate at `step`, a float32 scalar of at least `warmup_steps`."""
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
        peak_learning_rate: Rate at the end of the warm-up, p.
        total_steps: Step from which the rate is `end_learning_rate`, T.
        warmup_steps: Steps of the warm-up, w, at most T.
        end_learning_rate: Rate after the decay, e.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: T or w is not a whole number, T is not above 0, w is not from 0 to T, or a rate
            is negative or not finite.
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
        self.total_steps = whole_number("`total_steps`", total_steps, at_least(1))
        rule = f"at most `total_steps`, {self.total_steps}"
        require(self.warmup_steps <= self.total_steps, "`warmup_steps`", rule, warmup_steps)
        self.end_learning_rate = number("`end_learning_rate`", end_learning_rate, at_least(0))

    def fraction_left(self, step):
        """Returns 1 - (s-w)/(T-w), which is 1 at the end of the warm-up and 0 from T."""
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
        peak_learning_rate: Rate at the end of the warm-up, p.
        total_steps: Step from which the rate is `end_learning_rate`, T.
        warmup_steps: Steps of the warm-up, w, at most T.
        power: Power of the decay, above 0.
        end_learning_rate: Rate after the decay, e.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: As for `WarmupDecay`, or the power is not above 0.

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
        self.power = number("`power`", power, above(0))

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
        peak_learning_rate: Rate at the end of the warm-up, p.
        total_steps: Step from which the rate is `end_learning_rate`, T.
        warmup_steps: Steps of the warm-up, w, at most T.
        end_learning_rate: Rate after the decay, e.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: T or w is not a whole number, T is not above 0, w is not from 0 to T, or a rate
            is negative or not finite.

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
        peak_learning_rate: Rate at the end of the warm-up, p.
        boundaries: Increasing steps, counted from the start of training; each is the first step
            with a lower rate.
        decay_rate: Factor on the rate at each boundary, above 0.
        warmup_steps: Steps of the warm-up, w.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: As for `Warmup`, or the boundaries do not increase, or `decay_rate` is not above
            0.

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
        self.boundaries = [whole_number("`boundaries`", b, at_least(0)) for b in boundaries]
        increasing = self.boundaries == sorted(set(self.boundaries))
        require(increasing, "`boundaries`", "strictly increasing", boundaries)
        self.decay_rate = number("`decay_rate`", decay_rate, above(0))

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
    """Warm-up, then a constant rate.

    Args:
        peak_learning_rate: Rate from the end of the warm-up, p.
        warmup_steps: Steps of the warm-up, w.
        initial_learning_rate: Rate at step 0 of a warm-up, i.

    Raises:
        InputError: A rate is negative or not finite, or `warmup_steps` is not 0, 1, 2, ...
    """

    def decay(self, step):
        """Returns p."""
        del step
        return tf.constant(self.peak_learning_rate, tf.float32)


@keras.saving.register_keras_serializable(package="tf_lars")
class Shifted(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule of a run that is extended: rate(s) = schedule(s - first), at least 0.

    Args:
        schedule: Schedule of the added steps.
        first_step: Optimizer's step, counted from 0, at which it begins.

    Raises:
        InputError: `first_step` is not 0, 1, 2, ...
    """

    def __init__(self, schedule, first_step):
        super().__init__()
        self.schedule = schedule
        self.first_step = whole_number("`first_step`", first_step, at_least(0))

    def __call__(self, step):
        """Returns the rate at `step` as a float32 scalar."""
        return self.schedule(tf.maximum(step - self.first_step, 0))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "first_step": self.first_step,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the schedule of a config."""
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["first_step"])


@keras.saving.register_keras_serializable(package="tf_lars")
class Ramped(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule of a run whose batch changes: it counts examples instead of steps.

    With the phase of batch B that begins with step f, after q examples,

        rate(s) = schedule((q + (s - f) B) / b) * factor(B / b)

    where b is the batch for which the schedule was made: warm-up and decay take the same examples
    as there. The factor is 1 ("constant"), B/b ("linear") or its square root ("square_root").
    s counts the optimizer's steps; after skipped ones, the rate follows the batch by as many steps
    later.

    Args:
        schedule: Schedule of a run with the fixed batch b.
        phases: `(f, q, B)` of each phase, in order; the first is (0, 0, B). `phases` of
            `tf_lars.data.order.Steps` are these.
        batch_size: Batch b.
        rule: How the rate follows the batch.

    Raises:
        InputError: The phases do not begin at (0, 0) or do not rise, or the rule is unknown.
    """

    def __init__(self, schedule, phases, batch_size, rule="constant"):
        super().__init__()
        self.schedule = schedule
        self.phases = [[int(number) for number in phase] for phase in phases]
        self.batch_size = whole_number("`batch_size`", batch_size, at_least(1))
        self.rule = rule
        formulas.rate_factor(rule, 1.0)
        firsts = [phase[0] for phase in self.phases]
        begins = bool(self.phases) and self.phases[0][:2] == [0, 0]
        rule = "phases from (0, 0, batch) on, of increasing steps"
        require(begins and firsts == sorted(set(firsts)), "`phases`", rule, phases)

    def __call__(self, step):
        """Returns the rate at `step` as a float32 scalar."""
        step = tf.cast(step, tf.float32)
        equivalent, factor = formulas.ramped(tf, step, self.phases, self.batch_size, self.rule)
        return self.schedule(equivalent) * factor

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "phases": self.phases,
            "batch_size": self.batch_size,
            "rule": self.rule,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the schedule of a config."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**(config | {"schedule": schedule}))

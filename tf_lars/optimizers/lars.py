"""LARS for Keras 3 on TensorFlow."""

import dataclasses
import numbers

import keras
import tensorflow as tf

from tf_lars.errors import InputError, require
from tf_lars.optimizers import presets
from tf_lars.optimizers.exclusions import ExcludingOptimizer
from tf_lars.optimizers.lars_rule import (
    LarsRule,
    clip_by_global_norm,
    clip_by_norm,
    densify,
    l2_norm,
    velocity_dtype,
)
from tf_lars.optimizers.layer_statistics import LayerRecords
from tf_lars.optimizers.variables import native_variable, variable_path
from tf_lars.private_api import merge_call, moving_averages

if not keras.__version__.startswith("3.") or keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_lars.LARS needs Keras 3 on TensorFlow. "
        f"Received: keras {keras.__version__}, backend {keras.backend.backend()}. "
        "For Keras 2 there is tf_lars.keras2.LARS; the backend is set by KERAS_BACKEND=tensorflow."
    )


@keras.saving.register_keras_serializable(package="tf_lars")
class LARS(ExcludingOptimizer, keras.optimizers.Optimizer):
    """Layer-wise Adaptive Rate Scaling.

    Every variable takes its step at a rate of its own, a*r, where the trust ratio r compares the
    norm of its weights with the norm of their gradient. With learning rate a, momentum m, weight
    decay b, trust coefficient k and u = g + b*w:

        r = k*|w| / (|g| + b*|w| + epsilon)   trust_norm="separate": the paper, MLPerf, Intel
                                              Caffe, timm, lightning-bolts, apex
        r = k*|w| / (|u| + epsilon)           trust_norm="combined": optax, tf-models, SimCLR,
                                              moco-v3, VISSL

    | momentum_form | step                    | Nesterov             | the same as               |
    |---------------|-------------------------|----------------------|---------------------------|
    | "classic"     | v = m*v + a*r*u; w -= v | w -= m*v + a*r*u     | the paper, MLPerf, optax, |
    |               |                         |                      | SimCLR, tf-models with    |
    |               |                         |                      | classic_momentum=True     |
    | "torch"       | v = m*v + r*u; w -= a*v | w -= a*(r*u + m*v)   | apex LARC, timm, moco-v3, |
    |               |                         |                      | lightning-bolts, VISSL    |
    | "contrib"     | v = m*v + g; w -= a*r*v | w -= a*r*(g + m*v)   | tf.contrib's optimizer; b |
    |               |                         |                      | enters only the ratio     |
    | "popular"     | v = m*v + u; w -= a*r*d | d = m*v + u          | SimCLR and tf-models with |
    |               | d = v, r = k*|w|/|d|    |                      | classic_momentum=False    |

    "classic" and "torch" agree while a is constant and part under a schedule. "popular" takes the
    norm of its own d, whatever `trust_norm` says.

    Where a norm in r is zero, r = 1 and decay still applies. A variable excluded from decay has
    b = 0, in the ratio too. Norms are float32 for 16-bit variables, and so are their velocities.
    A sparse gradient is summed to the dense one that it stands for.

    Under tf.distribute the gradients are summed over the replicas first, then clipped, then
    applied. Gradient accumulation counts optimizer steps, in `iterations` and in the schedule;
    it needs a single replica.

    Args:
        learning_rate: a, a number, a schedule or a function without arguments. 1.0 unless given:
            LARS wants far larger rates than SGD.
        momentum: m in [0, 1), 0.9 unless given. With 0 there is no velocity.
        weight_decay: b, 0.0 unless given; a part of the rule, not decoupled.
        trust_coefficient: k, 0.001 unless given.
        epsilon: added to the denominator of r; 0.0 unless given.
        nesterov: False unless given.
        momentum_form: "classic" unless given; see the table.
        trust_norm: "separate" unless given; see above.
        clip_trust_ratio: LARC: r becomes min(r/a, 1), so that no step is longer than SGD's.
        exclude_from_weight_decay: regular expressions searched for in the variables' paths; []
            for none; None, the default, for all variables of rank 1 or less (bias, gamma, beta).
            Single variables: the method of the same name.
        exclude_from_layer_adaptation: the same for r; an excluded variable has r = 1.
        excluded_learning_rate_multiplier: factor on a, at least 0, for the variables excluded
            from adaptation, 1.0 unless given. They take the raw rate, which is 5 to 40 with
            LARS: batch normalisation forgives that, biases of a network without it do not
            (0.01 serves them).
        name: "lars" unless given.
        **kwargs: the arguments of `keras.optimizers.Optimizer`. `clipnorm`, `global_clipnorm` and
            `clipvalue` act on the sum over the replicas.

    Raises:
        InputError: a setting out of its range; when the variables are known: a pattern that
            matches none of them, or gradient accumulation with several replicas.

    Reference: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks",
    arXiv:1708.03888. `LARS.preset` has the settings of the implementations named above.
    """

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.9,
        weight_decay=0.0,
        trust_coefficient=0.001,
        epsilon=0.0,
        nesterov=False,
        momentum_form="classic",
        trust_norm="separate",
        clip_trust_ratio=False,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        excluded_learning_rate_multiplier=1.0,
        name="lars",
        **kwargs,
    ):
        if isinstance(learning_rate, numbers.Real):
            learning_rate = float(learning_rate)  # the base class refuses an int
        weight_decay = weight_decay or 0.0
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        multiplier = excluded_learning_rate_multiplier
        require(weight_decay >= 0, "`weight_decay`", "at least 0", weight_decay)
        require(multiplier >= 0, "`excluded_learning_rate_multiplier`", "at least 0", multiplier)
        self.rule = LarsRule(
            momentum=momentum,
            trust_coefficient=trust_coefficient,
            epsilon=epsilon,
            nesterov=nesterov,
            momentum_form=momentum_form,
            trust_norm=trust_norm,
            clip_trust_ratio=clip_trust_ratio,
        )
        self.excluded_learning_rate_multiplier = multiplier
        self._set_exclusions(exclude_from_weight_decay, exclude_from_layer_adaptation)
        self._records = None

    @classmethod
    def preset(cls, name, **overrides):
        """Returns LARS as a well-known implementation has it, so that its users keep their numbers.

        Args:
            name: a key of `tf_lars.optimizers.presets.PRESETS`, such as "mlperf" or "optax".
            **overrides: arguments of `LARS`, which take precedence.

        Raises:
            InputError: an unknown name.
        """
        return cls(**{**presets.settings(name), **overrides})

    def build(self, variables):
        """Makes the velocities, and settles which variables are excluded from what.

        Args:
            variables: the variables to train, Keras variables or `tf.Variable`s.

        Raises:
            InputError: an exclusion that names none of them, or gradient accumulation with
                several replicas.
        """
        if self.built:
            return
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if self.gradient_accumulation_steps and replicas > 1:
            raise InputError(
                "`gradient_accumulation_steps` needs a single replica. "
                f"Received: gradient_accumulation_steps={self.gradient_accumulation_steps} "
                f"with {replicas} replicas. Use `tf_lars.Trainer(micro_batch_size=...)`."
            )
        decay_excluded = self._decay_exclusions.resolve(variables)
        adaptation_excluded = self._adaptation_exclusions.resolve(variables)
        super().build(variables)
        self._weight_decays = tuple(0.0 if e else self.weight_decay for e in decay_excluded)
        self._adapts = tuple(not e for e in adaptation_excluded)
        if self.rule.momentum:
            self._velocities = [self._add_velocity(v) for v in variables]
        if self._records is not None:
            self._records.build(variables)

    def record_layer_statistics(self):
        """Has every later step keep what `layer_statistics` reads.

        Call it before the training step is traced; a step that was traced before records nothing.
        It adds two passes over the memory of each variable to the step.
        """
        if self._records is None:
            self._records = LayerRecords()
            if self.built:
                self._records.build(self._trainable_variables)

    def layer_statistics(self):
        """Returns a `LayerStatistics` for each variable's path, as of the last step.

        Raises:
            InputError: `record_layer_statistics` was not called before the step.
        """
        if self._records is None or not self.built:
            raise InputError(
                "`layer_statistics()` needs a step that recorded them. Received: none. "
                "Call `record_layer_statistics()` before the first step."
            )
        return self._records.read()

    def _add_velocity(self, variable):
        if self._overwrite_variable_with_gradient(variable):
            return None
        dtype = velocity_dtype(variable.dtype)
        if dtype == variable.dtype:
            return self.add_variable_from_reference(variable, name="velocity")
        value = native_variable(variable)
        with self._distribution_strategy.extended.colocate_vars_with(value):
            name = f"{variable_path(variable).replace('/', '_')}_velocity"
            return self.add_variable(shape=variable.shape, dtype=dtype.name, name=name)

    def update_step(self, gradient, variable, learning_rate):
        """Takes the step of one variable, as `LarsRule.update` has it."""
        index = self._get_variable_index(variable)
        adapt = self._adapts[index]
        if not adapt and self.excluded_learning_rate_multiplier != 1:
            learning_rate *= self.excluded_learning_rate_multiplier
        if self._records is not None:
            norms = l2_norm(variable), l2_norm(gradient)
        ratio = self.rule.update(
            variable,
            self._velocities[index].value if self.rule.momentum else None,
            gradient,
            learning_rate,
            self._weight_decays[index],
            adapt,
        )
        if self._records is not None:
            self._records.record(index, ratio, *norms)

    def _get_current_learning_rate(self):
        # The base class gives a schedule the number of micro-steps: with accumulation over N, a
        # warm-up would end N times too early.
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _apply_weight_decay(self, variables):
        """Nothing: the decay is a part of the rule."""

    def _backend_apply_gradients(self, grads, trainable_variables):
        # The base class clips before the reduction, and decides on accumulated steps and on EMA in
        # a `cond` around a `merge_call`, which several replicas cannot do.
        if not self.gradient_accumulation_steps:
            self._backend_update_step(grads, trainable_variables, self.learning_rate)
            return
        dense = _dense(_pairs(grads, trainable_variables))
        merge_call(self._distributed_accumulation, dense, tf.convert_to_tensor(self.learning_rate))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        reduced = self._all_reduce_sum_gradients(_pairs(grads, trainable_variables))
        clipped = self._clipped(_dense(reduced))
        merge_call(self._distributed_tf_update_step, clipped, tf.convert_to_tensor(learning_rate))

    def _clipped(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        return list(zip(self._clip_gradients(gradients), variables, strict=True))

    def _clip_gradients(self, grads):
        if (self.clipnorm or 0) > 0:
            return [clip_by_norm(g, self.clipnorm) for g in grads]
        if (self.global_clipnorm or 0) > 0:
            return clip_by_global_norm(grads, self.global_clipnorm)
        return super()._clip_gradients(grads)

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)
        for variable, average in moving_averages(self) if self.use_ema else ():
            distribution.extended.update(
                native_variable(variable), self._update_average, args=(average.value,), group=False
            )

    def _distributed_accumulation(self, distribution, grads_and_vars, learning_rate):
        sums = [
            self._accumulated_gradients[self._get_variable_index(v)].value
            for _, v in grads_and_vars
        ]
        for (gradient, _), total in zip(grads_and_vars, sums, strict=True):
            distribution.extended.update(
                total, lambda t, g: t.assign_add(g), args=(gradient,), group=False
            )
        steps = self.gradient_accumulation_steps

        def update():
            means = [
                (total / steps, variable)
                for (_, variable), total in zip(grads_and_vars, sums, strict=True)
            ]
            self._distributed_tf_update_step(distribution, self._clipped(means), learning_rate)
            for total in sums:
                distribution.extended.update(
                    total, lambda t: t.assign(tf.zeros_like(t)), group=False
                )

        tf.cond((self._iterations.value + 1) % steps == 0, update, lambda: None)

    def _update_average(self, variable, average):
        first = tf.equal(self.iterations, 0)
        m = tf.cast(tf.where(first, 0.0, self.ema_momentum), variable.dtype)
        average.assign(m * average + (1 - m) * variable)
        if not self.ema_overwrite_frequency:
            return

        def overwrite():
            variable.assign(average)

        last = tf.equal((self.iterations + 1) % self.ema_overwrite_frequency, 0)
        tf.cond(last, overwrite, lambda: None)

    def get_config(self):
        """Returns the constructor's arguments, and the exclusions that methods have added."""
        config = super().get_config()
        config.update(dataclasses.asdict(self.rule))
        config["excluded_learning_rate_multiplier"] = self.excluded_learning_rate_multiplier
        config.update(self._exclusions_config())
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the optimizer that `get_config` describes, without its state."""
        config = dict(config)
        more = config.pop("more_exclusions", None)
        optimizer = super().from_config(config, custom_objects)
        if more:
            optimizer._restore_exclusions(more)
        return optimizer


def _pairs(gradients, variables):
    return [(g, native_variable(v)) for g, v in zip(gradients, variables, strict=True)]


def _dense(grads_and_vars):
    return [(densify(g, v.shape), v) for g, v in grads_and_vars]

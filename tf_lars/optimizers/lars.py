"""LARS for Keras 3 on TensorFlow."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tf_lars.errors import InputError, require
from tf_lars.optimizers.lars_rule import (
    clip_by_global_norm,
    clip_by_norm,
    densify,
    l2_norm,
    velocity_dtype,
)
from tf_lars.optimizers.lars_settings import LarsSettings, OptimizerArguments, checked
from tf_lars.optimizers.layer_statistics import LayerRecords, LayerStatistics
from tf_lars.optimizers.variables import native_variable, variable_path
from tf_lars.private_api import merge_call, moving_averages
from tf_lars.setting import at_least, number

if TYPE_CHECKING:
    from typing_extensions import Unpack

LearningRate: TypeAlias = (
    "float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Any]"
)

_RECORD = "Call `record_layer_statistics()` before the first step."

if not keras.__version__.startswith("3.") or keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_lars.LARS needs Keras 3 on TensorFlow. "
        f"Received: keras {keras.__version__}, backend {keras.backend.backend()}. "
        "With Keras 2, use tf_lars.keras2.LARS; set the backend with KERAS_BACKEND=tensorflow."
    )


@keras.saving.register_keras_serializable(package="tf_lars")
class LARS(LarsSettings, keras.optimizers.Optimizer):
    """Layer-wise Adaptive Rate Scaling.

    Each variable is updated at its own rate a*r, where the trust ratio r compares the norm of its
    weights with the norm of their gradient. With learning rate a, momentum m, weight decay b, trust
    coefficient k and u = g + b*w:

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

    "classic" and "torch" agree while a is constant, and differ under a schedule. "popular" uses the
    norm of its own d, regardless of `trust_norm`.

    If a norm in r is zero, r = 1 and decay still applies, unless `zero_norm` says otherwise. A
    variable excluded from decay has b = 0, also in the ratio. Norms and velocities of 16-bit
    variables are float32. A sparse gradient is converted to the equivalent dense one.

    Under tf.distribute, gradients are first summed over the replicas, then clipped, then applied.
    With gradient accumulation, which needs a single replica, `iterations` and the schedule count
    optimizer steps.

    Args:
        learning_rate: a: a number, a schedule or a function without arguments; 1.0 by default.
            LARS needs far larger rates than SGD.
        momentum: m in [0, 1), 0.9 by default. With 0 there is no velocity.
        weight_decay: b, 0.0 by default; part of the rule, not decoupled.
        trust_coefficient: k, 0.001 by default.
        epsilon: Term added to the denominator of r; 0.0 by default.
        nesterov: Whether to use Nesterov momentum; False by default.
        momentum_form: Row of the table; "classic" by default.
        trust_norm: Form of r, see above; "separate" by default.
        clip_trust_ratio: Whether to replace r with min(r/a, 1), as LARC does, so that no step is
            longer than SGD's; False by default.
        exclude_from_weight_decay: Regular expressions searched for in the variables' paths. []
            excludes nothing; None, the default, excludes all variables of rank 1 or less (bias,
            gamma, beta). For single variables, call the method of the same name.
        exclude_from_layer_adaptation: The same for r; an excluded variable has r = 1.
        excluded_learning_rate_multiplier: Factor on a, at least 0, for variables excluded from
            adaptation; 1.0 by default. These take the raw rate, which is 5 to 40 with LARS: batch
            normalisation tolerates it, but biases of a network without batch normalisation do not
            (0.01 works for them).
        zero_norm: Step of an adapted variable whose weights or gradient have the norm zero.
            "ratio_one", the default, has r = 1, which `clip_trust_ratio` clips as any other, and
            decays: MLPerf, timm. "plain_gradient" is SGD's step, neither clipped nor decayed: apex,
            lightning-bolts.
        always_adapt: Whether variables without weight decay are adapted, too; True by default.
            timm and lightning-bolts adapt variables with decay only.
        name: Name of the optimizer; by default "lars", then "lars_1" and so on, as Keras does.
        **kwargs: Arguments of `keras.optimizers.Optimizer`. `clipnorm`, `global_clipnorm` and
            `clipvalue` apply to the sum over the replicas.

    Raises:
        InputError: If a setting is out of its range or, once the variables are known, a pattern
            matches none of them or gradient accumulation is used with several replicas.

    Reference: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks",
    arXiv:1708.03888. `LARS.preset` provides the settings of the implementations named above.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        momentum: float = 0.9,
        weight_decay: float | None = 0.0,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        nesterov: bool = False,
        momentum_form: str = "classic",
        trust_norm: str = "separate",
        clip_trust_ratio: bool = False,
        exclude_from_weight_decay: Sequence[str] | None = None,
        exclude_from_layer_adaptation: Sequence[str] | None = None,
        excluded_learning_rate_multiplier: float = 1.0,
        zero_norm: str = "ratio_one",
        always_adapt: bool = True,
        name: str | None = None,
        **kwargs: "Unpack[OptimizerArguments]",
    ):
        if not callable(learning_rate):  # neither a schedule nor a function
            # The base class takes no number but a Python float.
            learning_rate = number("`learning_rate`", learning_rate, at_least(0))
        super().__init__(learning_rate=learning_rate, name=name, **checked(kwargs))
        self._set_lars(
            weight_decay=weight_decay,
            excluded_learning_rate_multiplier=excluded_learning_rate_multiplier,
            exclude_from_weight_decay=exclude_from_weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            momentum=momentum,
            trust_coefficient=trust_coefficient,
            epsilon=epsilon,
            nesterov=nesterov,
            momentum_form=momentum_form,
            trust_norm=trust_norm,
            clip_trust_ratio=clip_trust_ratio,
            zero_norm=zero_norm,
            always_adapt=always_adapt,
        )
        self._records: LayerRecords | None = None

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the velocities and determines the excluded variables.

        Args:
            variables: Variables to train, either Keras variables or `tf.Variable`s.

        Raises:
            InputError: If an exclusion matches none of them, or gradient accumulation is used with
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
        self._adapts = tuple(map(self.rule.adapts, adaptation_excluded, self._weight_decays))
        if self.rule.momentum:
            self._velocities = [self._add_velocity(v) for v in variables]
        if self._records is not None:
            self._records.build(variables)

    def record_layer_statistics(self) -> None:
        """Records, in every later step, the values that `layer_statistics` returns.

        Must be called before the training step is traced; a step traced earlier records nothing.
        Recording adds two passes over the memory of each variable to the step.
        """
        self._record(norms=True)

    def record_trust_ratios(self) -> None:
        """Records, in every later step, the values that `trust_ratios` returns.

        Must be called before the training step is traced. It costs one assignment of a number for
        each adapted variable.
        """
        self._record(norms=False)

    def trust_ratios(self) -> np.ndarray:
        """Returns the trust ratio of each variable in the last step, float32 `[variables]`.

        Raises:
            InputError: If nothing was recorded.
        """
        return self._recorded().trust_ratios()

    def _record(self, *, norms: bool) -> None:
        if self._records is None or norms > self._records.norms:
            self._records = LayerRecords(norms)
            if self.built:
                self._records.build(self._trainable_variables)

    def _recorded(self) -> LayerRecords:
        if self._records is None or not self.built:
            raise InputError(
                "Statistics need a step that recorded them. Received: none. Call "
                "`record_layer_statistics()` before the first step."
            )
        return self._records

    def layer_statistics(self) -> dict[str, LayerStatistics]:
        """Returns the `LayerStatistics` of the last step, by variable path.

        Raises:
            InputError: If `record_layer_statistics` was not called before the step.
        """
        records = self._recorded()
        require(records.norms, "Recorded statistics", "with norms", "trust ratios alone", _RECORD)
        return records.read()

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
        """Updates one variable with `LarsRule.update`."""
        index = self._get_variable_index(variable)
        adapt = self._adapts[index]
        if not adapt and self.excluded_learning_rate_multiplier != 1:
            learning_rate *= self.excluded_learning_rate_multiplier
        norms: tuple[Any, ...] = ()
        if self._records is not None and self._records.norms:
            norms = l2_norm(variable), l2_norm(gradient)
        ratio = self.rule.update(
            variable,
            self._velocities[index].value if self.rule.momentum else None,
            gradient,
            learning_rate,
            self._weight_decays[index],
            adapt,
        )
        if self._records is not None and (adapt or norms):  # otherwise it stays 1
            self._records.record(index, ratio, *norms)

    def _get_current_learning_rate(self):
        # The base class passes the number of micro-steps to a schedule: with accumulation over N,
        # a warm-up would end N times too early.
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _apply_weight_decay(self, variables):
        """Does nothing, because decay is part of the rule."""

    def _backend_apply_gradients(self, grads, trainable_variables):
        # The base class clips before the reduction, and handles accumulation and EMA in a `cond`
        # around a `merge_call`, which fails on several replicas.
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


def _pairs(gradients, variables):
    return [(g, native_variable(v)) for g, v in zip(gradients, variables, strict=True)]


def _dense(grads_and_vars):
    return [(densify(g, v.shape), v) for g, v in grads_and_vars]

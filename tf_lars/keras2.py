"""LARS for Keras 2: TensorFlow 2.13 to 2.15, and tf_keras under newer TensorFlow.

This version works with tensorflow-addons. Its wrappers (MovingAverage, Lookahead, SWA) accept only
legacy optimizers of Keras 2, hence the base class.
"""

from typing import Any

import tensorflow as tf

from tf_lars.errors import InputError
from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.lars_settings import LarsSettings, checked
from tf_lars.setting import at_least, number


def _keras2():
    """Returns the Keras 2 package of this environment."""
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 16):
        return tf.keras
    try:
        import tf_keras
    except ImportError as error:
        raise ImportError(
            "tf_lars.keras2 needs Keras 2, which TensorFlow contains up to 2.15. "
            f"Received: TensorFlow {tf.__version__} without tf_keras. "
            "Install tf_keras, or use tf_lars.LARS, which is for Keras 3."
        ) from error
    return tf_keras


_KERAS: Any = _keras2()


@_KERAS.utils.register_keras_serializable(package="tf_lars")
class LARS(LarsSettings, _KERAS.optimizers.legacy.Optimizer):
    """Layer-wise Adaptive Rate Scaling for Keras 2.

    It takes the same steps as `tf_lars.LARS`, with the same `tf_lars.optimizers.lars_rule`; see
    there for the equations and for the arguments not explained here. Gradients are first summed
    over the replicas, then clipped, then applied. The velocity has the dtype of its variable, even
    with 16 bits. Mixed precision is Keras 2's own: `mixed_precision.LossScaleOptimizer(LARS(...))`.

    `tf.train.Checkpoint` and `model.save("model.h5")` keep the velocity. The .keras and SavedModel
    formats keep the settings of a legacy optimizer but lose its state, including that of LARS.

    Args:
        learning_rate: Number, schedule of the same Keras, or function without arguments; 1.0 by
            default.
        momentum, weight_decay, trust_coefficient, epsilon, nesterov, momentum_form, trust_norm,
            clip_trust_ratio, exclude_from_weight_decay, exclude_from_layer_adaptation,
            excluded_learning_rate_multiplier, zero_norm, always_adapt: As in `tf_lars.LARS`.
        name: Name of the optimizer; "LARS" by default.
        **kwargs: `clipnorm`, `global_clipnorm`, `clipvalue`, `decay` or `lr` of the legacy base.

    Raises:
        InputError: If a setting is out of its range, the schedule belongs to another Keras, a
            pattern matches no variable, or TensorFlow 1 behaviour is enabled.
    """

    _HAS_AGGREGATE_GRAD = True

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
        zero_norm="ratio_one",
        always_adapt=True,
        name="LARS",
        **kwargs,
    ):
        self.built = False
        self._seen = {}
        self._excluded = {}
        super().__init__(name, **checked(kwargs))
        learning_rate = kwargs.get("lr", learning_rate)
        schedule = _KERAS.optimizers.schedules.LearningRateSchedule
        if hasattr(learning_rate, "get_config") and not isinstance(learning_rate, schedule):
            raise InputError(
                f"A schedule must come from the optimizer's Keras, {_KERAS.__name__}. "
                f"Received: learning_rate={learning_rate!r}."
            )
        # In a configuration, Keras 2 describes a schedule by a dict.
        if not (callable(learning_rate) or isinstance(learning_rate, (dict, tf.Variable))):
            learning_rate = number("`learning_rate`", learning_rate, at_least(0))
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
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

    def _create_slots(self, var_list):
        if not tf.compat.v1.executing_eagerly_outside_functions():
            raise InputError(
                "tf_lars.keras2.LARS needs TensorFlow 2 behaviour. Received: graphs with sessions. "
                "Remove `tf.compat.v1.disable_eager_execution()`."
            )
        self._settle_exclusions(var_list)
        if self.rule.momentum:
            for variable in var_list:
                self.add_slot(variable, "velocity")

    def _settle_exclusions(self, var_list):
        # The base class calls this in every step, with the variables that have gradients in it.
        known = {_key(v): v for v in var_list}
        if known.keys() <= self._excluded.keys():
            return
        self._seen = {**self._seen, **known}
        variables = list(self._seen.values())
        pairs = zip(
            self._decay_exclusions.resolve(variables),
            self._adaptation_exclusions.resolve(variables),
            strict=True,
        )
        self._excluded = dict(zip(self._seen, pairs, strict=True))
        self.built = True

    def _transform_gradients(self, grads_and_vars):
        # Before the base class clips: slices with repeated rows have another norm than their sum.
        return super()._transform_gradients([(densify(g, v.shape), v) for g, v in grads_and_vars])

    def _resource_apply_dense(self, grad, var, apply_state=None):
        place = var.device, var.dtype.base_dtype
        coefficients = (apply_state or {}).get(place) or self._fallback_apply_state(*place)
        no_decay, no_adaptation = self._excluded[_key(var)]
        weight_decay = 0.0 if no_decay else self.weight_decay
        adapt = self.rule.adapts(no_adaptation, weight_decay)
        rate = coefficients["lr_t"]
        if not adapt and self.excluded_learning_rate_multiplier != 1:
            rate *= self.excluded_learning_rate_multiplier
        self.rule.update(
            var,
            self.get_slot(var, "velocity") if self.rule.momentum else None,
            grad,
            rate,
            weight_decay,
            adapt,
        )
        # The kernels have no output; a tf.function orders later operations by the variables.
        return tf.no_op()

    def _resource_apply_sparse_duplicate_indices(self, grad, var, indices, apply_state=None):
        # Called only by the wrappers of tensorflow-addons.
        dense = densify(tf.IndexedSlices(grad, indices), var.shape)
        return self._resource_apply_dense(dense, var, apply_state)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        return self._resource_apply_sparse_duplicate_indices(grad, var, indices, apply_state)

    def get_config(self):
        """Returns the constructor's arguments, and the exclusions added by methods."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._initial_decay,
            "weight_decay": self.weight_decay,
        }


def _key(variable):
    """Returns the same key for a mirrored variable and for each of its copies."""
    mirrored = isinstance(variable, tf.distribute.DistributedValues)
    if not mirrored and hasattr(variable.handle, "_distributed_container"):
        variable = variable.handle._distributed_container()
    return variable._unique_id

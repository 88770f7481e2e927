"""Dynamic loss scaling whose verdict on a step all replicas share."""

import keras

from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.variables import native_variable


@keras.saving.register_keras_serializable(package="tf_lars")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Scales the loss, and skips a step whose gradients are not finite, on all replicas or on none.

    The gradients are summed over the replicas first, and the sum is tested: an Inf or a NaN of any
    one replica is in it, so every replica comes to the same verdict. All skip the step and halve
    the scale; `dynamic_growth_steps` finite steps in a row double it. (The base class tests the
    first local replica before the sum: other replicas' Infs reach the weights, and workers that
    disagree wait for each other for ever.)

    `model.compile` under the policy "mixed_float16" takes it as it is and wraps nothing around it.
    The inner optimizer leaves the summing to this one: use it only through this one.

    Args:
        inner_optimizer: the optimizer to wrap: `tf_lars.LARS` or any of Keras.
        initial_scale: 2**15 unless given.
        dynamic_growth_steps: 2000 unless given.
        name: the name of the optimizer.

    Reference: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2.
    """

    def apply(self, grads, trainable_variables=None):
        """Sums the gradients over the replicas, then takes or skips the step."""
        self.inner_optimizer._all_reduce_sum_gradients = list
        variables = trainable_variables or self._trainable_variables
        present = [
            (g, native_variable(v)) for g, v in zip(grads, variables, strict=True) if g is not None
        ]
        summed = iter([densify(g, v.shape) for g, v in self._all_reduce_sum_gradients(present)])
        super().apply([None if g is None else next(summed) for g in grads], trainable_variables)

"""Dynamic loss scaling, with the same decision on all replicas."""

import keras

from tf_lars.optimizers.lars_rule import densify
from tf_lars.optimizers.variables import native_variable


@keras.saving.register_keras_serializable(package="tf_lars")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Optimizer that scales the loss, and skips non-finite steps on all replicas or on none.

    The gradients are summed over the replicas first, and the sum is tested: it contains an Inf or
    NaN of any replica, so all replicas make the same decision. All of them skip the step and halve
    the scale; `dynamic_growth_steps` consecutive finite steps double it. (The base class tests the
    first local replica before the sum: Infs of other replicas reach the weights, and workers that
    disagree deadlock.)

    Under the policy "mixed_float16", `model.compile` uses it as it is and does not wrap it again.
    The inner optimizer leaves the summing to this one, so use it only through this one.

    Args:
        inner_optimizer: Optimizer to wrap, `tf_lars.LARS` or any Keras optimizer.
        initial_scale: Initial scale; 2**15 by default.
        dynamic_growth_steps: Number of consecutive finite steps that double the scale; 2000 by
            default.
        name: Name of the optimizer.

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

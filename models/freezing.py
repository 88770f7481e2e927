"""Freezes the layers and variables of a model whose paths match a regular expression."""

import math
import re
from typing import TYPE_CHECKING

from tf_lars.errors import InputError

if TYPE_CHECKING:
    import keras


def freeze(model: "keras.Model", pattern: str) -> None:
    """Freezes variables whose paths match a regular expression, before the model is compiled.

    A variable is frozen if the expression is found in its path, such as `stem_bn/gamma`, or in that
    of its layer, `stem_bn`. A layer all of whose variables are frozen is frozen itself: batch
    normalisation then uses its moving statistics, and leaves them as they are.

    Args:
      model: Built model.
      pattern: Regular expression.

    Raises:
      InputError: The expression matches no trainable variable, or all of them.
    """
    from tf_lars.private_api import layers_of

    search = re.compile(pattern).search
    names = [variable.path for variable in model.trainable_variables]
    for layer in layers_of(model):
        own = own_variables(layer)
        frozen = [v for v in own if search(v.path) or search(v.path.rpartition("/")[0])]
        for variable in frozen:
            variable.trainable = False
        # A layer with parts passes its own value on to them.
        if own and len(frozen) == len(own) == len(layer.weights):
            layer.trainable = False
    left = len(model.trainable_variables)
    if left in (0, len(names)):
        matched = "none" if left else "all"
        raise InputError(
            "--freeze must be found in the paths of some layers, and leave others to train. "
            f"Received: {pattern!r}, which is found in those of {matched} of the {len(names)} "
            f"trainable variables, from {names[0]!r} to {names[-1]!r}."
        )


def own_variables(layer: "keras.layers.Layer") -> "list[keras.Variable]":
    """Returns the variables of a layer, without those of layers in it, in the order of Keras."""
    from tf_lars.private_api import layers_of

    within = {id(v) for part in layers_of(layer)[1:] for v in part.weights}
    return [v for v in layer.weights if id(v) not in within]


def frozen_parameters(model: "keras.Model") -> int:
    """Returns the number of parameters that were created trainable and are frozen."""
    # TensorFlow's variable keeps the `trainable` that it was created with.
    frozen = [w for w in model.non_trainable_weights if w.value.trainable]
    return sum(math.prod(weight.shape) for weight in frozen)

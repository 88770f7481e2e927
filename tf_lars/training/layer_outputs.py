"""The outputs of all layers of a model, seen while it is called."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_lars.private_api import layers_of


@contextlib.contextmanager
def outputs_of_layers(model: keras.Model) -> Iterator[list[tuple[str, tf.Tensor]]]:
    """Yields a list to which each layer adds its path and its outputs, in the order of the calls.

    Layers that consist of others add nothing themselves. An attribute of the instance takes the
    place of the method `call`.
    """
    outputs: list[tuple[str, tf.Tensor]] = []

    def watched(layer: keras.layers.Layer) -> Callable:
        call = layer.call

        def call_and_add(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            tensors = [t for t in tf.nest.flatten(result) if tf.is_tensor(t)]
            outputs.extend((layer.path, t) for t in tensors if t.dtype.is_floating)
            return result

        return call_and_add

    innermost = [layer for layer in layers_of(model) if len(layers_of(layer)) == 1]
    replaced = [vars(layer).get("call") for layer in innermost]
    for layer in innermost:
        layer.call = watched(layer)
    try:
        yield outputs
    finally:
        for layer, before in zip(innermost, replaced, strict=True):
            if before is None:
                del layer.call
            else:
                layer.call = before

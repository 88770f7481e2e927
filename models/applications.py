"""Models of `keras.applications` by name, with random weights.

The networks are Keras's own, including their top (`include_top=True`), so parameters and dropout
match the published models. Two things are added: each family's normalisation of colours, which
half of the families leave to `preprocess_input`, and float32 arithmetic in the last layers.
"""

import sys

import keras
import numpy as np
from keras import layers

from models.input_and_head import IMAGENET_MEAN, IMAGENET_STD, image_input, unbuildable
from tf_lars.errors import InputError


def create(name: str, *, num_classes: int, image_size: int) -> keras.Model:
    """Builds `keras.applications.<name>` with random weights.

    Args:
      name: Name of a function in `keras.applications`, such as `EfficientNetV2B0`.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels.

    Raises:
      InputError: The installed Keras has no such model, or cannot build it for this size.
    """
    builder = getattr(keras.applications, name, None)
    if builder is None:
        raise InputError(
            f"The model must exist in the installed Keras ({keras.__version__}). Received: "
            f"'keras.applications/{name}'."
        )
    # In families whose network normalises its input, preprocess_input does nothing.
    preprocess_input = sys.modules[builder.__module__].preprocess_input
    image = image_input(image_size)
    try:
        network = builder(
            weights=None,
            include_top=True,
            input_tensor=preprocess_input(image),
            input_shape=(image_size, image_size, 3),
            classes=num_classes,
            classifier_activation=None,
        )
    except ValueError as error:
        raise unbuildable(name, image_size, error, "another --image_size") from error
    _normalise_as_imagenet(network)
    _compute_top_in_float32(network)
    # Changes no values: declares the dtype that the last layers now have.
    outputs = layers.Activation("linear", dtype="float32", name="float32_logits")(network.output)
    return keras.Model(image, outputs, name=name)


def _normalise_as_imagenet(network: keras.Model) -> None:
    """Sets ImageNet's colour statistics in EfficientNetB0 to B7.

    Their `Normalization` layer has the statistics only in the published weights; with random
    weights it would leave colours from 0 to 1 unchanged.
    """
    for layer in network.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            mean = [value / 255 for value in IMAGENET_MEAN]
            variance = [(value / 255) ** 2 for value in IMAGENET_STD]
            layer.set_weights([np.array(mean), np.array(variance), np.array(0)])
            layer.finalize_state()


def _compute_top_in_float32(network: keras.Model) -> None:
    """Sets the classifier, and any layers behind it, to float32."""
    for layer in reversed(network.layers):
        layer.dtype_policy = "float32"
        if layer.weights:
            return

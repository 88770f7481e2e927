"""Any model of `keras.applications` by its name, from random weights.

The network is Keras's own with its own top (`include_top=True`), so that parameters and dropout
are the published ones. What is added: each family's normalisation of colours, which Keras leaves
outside of half of them, goes inside, and the last layers compute in float32.
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
      name: of a function in `keras.applications`, such as `EfficientNetV2B0`.
      num_classes: number of logits.
      image_size: side of the square input in pixels, with colours from 0 to 255.

    Raises:
      InputError: the installed Keras has no such model, or it cannot be built for this size.
    """
    builder = getattr(keras.applications, name, None)
    if builder is None:
        raise InputError(
            f"The model must be one of the installed Keras's ({keras.__version__}). Received: "
            f"'keras.applications/{name}'."
        )
    # A family whose network normalises by itself has a preprocess_input that does nothing.
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
    # The cast changes nothing: it declares the type that the last layers now have.
    outputs = layers.Activation("linear", dtype="float32", name="float32_logits")(network.output)
    return keras.Model(image, outputs, name=name)


def _normalise_as_imagenet(network: keras.Model) -> None:
    """Gives the statistics of ImageNet to EfficientNetB0 to B7.

    Their `Normalization` layer has them in the published weights alone; with random weights it
    would pass colours from 0 to 1 unchanged.
    """
    for layer in network.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            mean = [value / 255 for value in IMAGENET_MEAN]
            variance = [(value / 255) ** 2 for value in IMAGENET_STD]
            layer.set_weights([np.array(mean), np.array(variance), np.array(0)])
            layer.finalize_state()


def _compute_top_in_float32(network: keras.Model) -> None:
    """Sets the dtype of the classifier, and of what reshapes its result, to float32."""
    for layer in reversed(network.layers):
        layer.dtype_policy = "float32"
        if layer.weights:
            return

"""Image input and classification head shared by the networks of this package."""

import re
from collections.abc import Sequence

import keras
from keras import layers

from tf_lars.errors import InputError

# Per-channel statistics of the ImageNet training images, with colours from 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def image_input(image_size: int | None) -> keras.KerasTensor:
    """Returns a network's input `[batch, size, size, 3]`: RGB, with colours from 0 to 255."""
    return keras.Input((image_size, image_size, 3), name="image")


def normalise_colours(image, std: Sequence[float] = IMAGENET_STD):
    """Returns `(image - IMAGENET_MEAN) / std`, per channel."""
    return layers.Normalization(
        mean=IMAGENET_MEAN, variance=[value**2 for value in std], name="normalise_colours"
    )(image)


def unbuildable(name: str, image_size: int | None, error: Exception, remedy: str) -> InputError:
    """Returns the error for a library's network that refuses a size, with its reason in a line."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]
    return InputError(
        f"{name} cannot be built for images of {image_size} pixels. Received: "
        f"{' '.join(text.split())} Use {remedy}."
    )


def logits(
    features, num_classes: int, *, kernel_stddev: float = 0.01, bias: float = 0.0
) -> keras.KerasTensor:
    """Returns float32 logits `[batch, num_classes]` of features `[batch, channels]`.

    Args:
      features: Features of the image.
      num_classes: Number of logits.
      kernel_stddev: Standard deviation of the initial kernel, which is normal with mean 0.
      bias: Initial bias.
    """
    return layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=kernel_stddev),
        bias_initializer=keras.initializers.Constant(bias),
        dtype="float32",  # a softmax over half-precision logits loses accuracy
        name="logits",
    )(features)

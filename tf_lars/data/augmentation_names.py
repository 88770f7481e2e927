"""Names of the augmentations, and whether one can be used here; imports nothing large."""

import importlib.util

from tf_lars.errors import InputError

KERAS_CV_AUGMENTATIONS = ("randaugment", "augmix")
"""Augmentations that `tf_lars.data.augment` builds from keras-cv's operations."""

AUGMENTATIONS = ("none", "reference", "pad_crop", *KERAS_CV_AUGMENTATIONS)
"""Augmentations that `tf_lars.data.image_input.TrainingInput` accepts."""

RANDAUGMENT_MAGNITUDE, MAX_RANDAUGMENT_MAGNITUDE = 9.0, 10.0
"""Magnitude for ResNet-50 on ImageNet (Cubuk et al. 2020), and the end of the paper's scale."""


CROP_PADDING, MAX_CROP_PADDING = 0.125, 0.5
"""Padding of "pad_crop" as a share of the image's side: 4 of 32 pixels, as in the recipes for CIFAR
(He et al. 2016, section 4.2); and the widest, beyond which a crop may miss the image."""

PADDING_MODES = ("reflect", "zeros")
"""What "pad_crop" pads with: the mirrored margin of the image, or black."""


def check_padding(share: float, mode: str) -> None:
    """Checks the settings of "pad_crop".

    Raises:
      InputError: The share is out of range, or the mode is unknown.
    """
    if not 0 <= share <= MAX_CROP_PADDING:
        raise InputError(
            f"The padding must be a share of the image's side from 0 to {MAX_CROP_PADDING:g}. "
            f"Received: {share}. {CROP_PADDING:g} is usual, 4 of 32 pixels."
        )
    if mode not in PADDING_MODES:
        raise InputError(
            f"The mode of the padding must be one of {', '.join(PADDING_MODES)}. Received: "
            f"{mode!r}."
        )


def check_augmentation(name: str, magnitude: float = RANDAUGMENT_MAGNITUDE) -> None:
    """Checks that an augmentation can be used, without importing anything large.

    Args:
      name: Name of the augmentation.
      magnitude: Magnitude of RandAugment's operations.

    Raises:
      InputError: The name is unknown, the magnitude is off its scale, or keras-cv is needed and
        not installed.
    """
    if name not in AUGMENTATIONS:
        raise InputError(
            f"The augmentation must be one of {', '.join(AUGMENTATIONS)}. Received: {name!r}."
        )
    if not 0 <= magnitude <= MAX_RANDAUGMENT_MAGNITUDE:
        raise InputError(
            f"RandAugment's magnitude must be from 0 to {MAX_RANDAUGMENT_MAGNITUDE:g}. "
            f"Received: {magnitude}. {RANDAUGMENT_MAGNITUDE:g} is usual."
        )
    if name in KERAS_CV_AUGMENTATIONS and importlib.util.find_spec("keras_cv") is None:
        raise InputError(
            f'The augmentation "{name}" needs keras-cv. Received: an environment without it. '
            'Install it with pip install "tf-lars[keras-cv]".'
        )

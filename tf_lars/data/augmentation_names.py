"""Names of the augmentations, and whether one can be used here; imports nothing large."""

import importlib.util

from tf_lars.errors import InputError

KERAS_CV_AUGMENTATIONS = ("randaugment", "augmix")
"""Those of `AUGMENTATIONS` that `tf_lars.data.augment` makes of keras-cv's operations."""

AUGMENTATIONS = ("none", "reference", *KERAS_CV_AUGMENTATIONS)
"""Names of the augmentations that `tf_lars.data.image_input.TrainingInput` knows."""

RANDAUGMENT_MAGNITUDE, MAX_RANDAUGMENT_MAGNITUDE = 9.0, 10.0
"""The paper's for ResNet-50 on ImageNet (Cubuk et al. 2020), and the end of its scale."""


def check_augmentation(name: str, magnitude: float = RANDAUGMENT_MAGNITUDE) -> None:
    """Finds, without importing anything large, whether an augmentation can be used.

    Args:
      name: of the augmentation.
      magnitude: of RandAugment's operations.

    Raises:
      InputError: there is none of that name, the magnitude is off its scale, or keras-cv is needed
        and not installed.
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

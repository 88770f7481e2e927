"""Synthetic data sets: numbers of images and classes instead of files."""

import dataclasses
import re

from tf_lars.data.records.dataset_info import DatasetInfo, ShardInfo, SplitInfo
from tf_lars.errors import InputError

NAME = "synthetic"
IMAGES, CLASSES = 1_281_167, 1000
"""Default numbers of training images and of classes, those of ImageNet."""
MOST_IMAGES, MOST_CLASSES = 1_000_000_000, 100_000
WORDS = (
    f"{NAME}, {NAME}:IMAGES or {NAME}:IMAGES:CLASSES, with 1 to {MOST_IMAGES:,} images and 2 to "
    f"{MOST_CLASSES:,} classes"
)
_FORM = re.compile(rf"{NAME}(?::(\d{{1,10}})(?::(\d{{1,6}}))?)?", re.ASCII)
_TRAINING_PER_VALIDATION_IMAGE = 25
"""About as in ImageNet."""


@dataclasses.dataclass(frozen=True)
class SyntheticData:
    """A data set of noise.

    Attributes:
      num_examples: Number of training images.
      num_classes: Number of classes.
    """

    num_examples: int = IMAGES
    num_classes: int = CLASSES

    @classmethod
    def parse(cls, text: str) -> "SyntheticData":
        """Returns the data set that `synthetic[:IMAGES[:CLASSES]]` names.

        Raises:
          InputError: The text has another form, or a number is out of range.
        """
        match = _FORM.fullmatch(text)
        if match:
            made = cls(int(match[1] or IMAGES), int(match[2] or CLASSES))
            if 1 <= made.num_examples <= MOST_IMAGES and 2 <= made.num_classes <= MOST_CLASSES:
                return made
        raise InputError(f"Synthetic data must be {WORDS}. Received: {text!r}.")

    @property
    def num_validation_examples(self) -> int:
        """Number of validation images."""
        return -(-self.num_examples // _TRAINING_PER_VALIDATION_IMAGE)

    def info(self) -> DatasetInfo:
        """Returns the description that a prepared folder of such images would have."""
        names = tuple(f"class {number}" for number in range(self.num_classes))
        counts = {"train": self.num_examples, "validation": self.num_validation_examples}
        return DatasetInfo(
            NAME,
            names,
            names,
            {
                # The fingerprint covers the names of the shards.
                split: SplitInfo((ShardInfo(f"{NAME}:{count}:{self.num_classes}", count, 0, ""),))
                for split, count in counts.items()
            },
        )


IMAGENET = SyntheticData()
"""As many images and classes as ImageNet."""


def is_synthetic(text: str) -> bool:
    """Returns whether a text names synthetic data."""
    try:
        SyntheticData.parse(text)
    except InputError:
        return False
    return True

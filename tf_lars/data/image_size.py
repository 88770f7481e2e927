"""Progressive resizing: small images in early epochs, large ones at the end.

Training on 128 pixels takes a third of the time of 224, and the network unlearns nothing when they
grow (Howard et al., DAWNBench 2018; schedules of libffcv/ffcv-imagenet).
"""

import dataclasses
import itertools

from tf_lars.errors import InputError
from tf_lars.setting import MOST_EPOCHS, image_size


@dataclasses.dataclass(frozen=True)
class ImageSizeSchedule:
    """Side of the training images in pixels, by epoch.

    Attributes:
      starts: Pairs `(epoch, size)` of a size and the first epoch, from 0, that has it. The first
        pair is for epoch 0, and epochs rise.
    """

    starts: tuple[tuple[int, int], ...]

    def __post_init__(self):
        epochs = [epoch for epoch, _ in self.starts]
        rising = all(a < b for a, b in itertools.pairwise(epochs))
        sizes = image_size()
        if not (epochs and epochs[0] == 0 and rising and epochs[-1] < MOST_EPOCHS) or not all(
            sizes.holds(size) for _, size in self.starts
        ):
            raise InputError(
                "A schedule of image sizes is epoch:size,... with rising epochs, the first of them "
                f"0, and sizes {sizes.words}, such as 0:128,18:160,32:224. Received: {self}."
            )

    def __str__(self) -> str:
        return ",".join(f"{epoch}:{size}" for epoch, size in self.starts)

    @classmethod
    def parse(cls, text: str) -> "ImageSizeSchedule":
        """Returns the schedule that a text such as "0:128,18:160,32:224" describes.

        Raises:
          InputError: The text does not describe a schedule.
        """
        try:
            pairs = [entry.split(":") for entry in text.split(",")]
            return cls(tuple((int(epoch), int(size)) for epoch, size in pairs))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "A schedule of image sizes is epoch:size,... such as 0:128,18:160,32:224. "
                f"Received: {text!r}."
            ) from error

    def size(self, epoch: int) -> int:
        """Returns the side of the images of an epoch."""
        return [size for first, size in self.starts if first <= epoch][-1]

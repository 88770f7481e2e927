"""Progressive resizing: small images in early epochs, large ones at the end.

Training on 128 pixels takes a third of the time of 224, and the network unlearns nothing when they
grow (Howard et al., DAWNBench 2018; schedules of libffcv/ffcv-imagenet).
"""

from tf_lars.data.epoch_schedule import EpochSchedule
from tf_lars.setting import image_size


class ImageSizeSchedule(EpochSchedule):
    """Side of the training images in pixels, by epoch, such as 0:128,18:160,32:224."""

    noun = "image sizes"
    form = "epoch:size"
    values = "sizes"
    rule = image_size()
    example = "0:128,18:160,32:224"

    def size(self, epoch: int) -> int:
        """Returns the side of the images of an epoch."""
        return self.at(epoch)

"""The settings that say what the network sees."""

import dataclasses

from tf_lars import setting as table
from tf_lars.data import synthetic_data
from tf_lars.data.augmentation_names import (
    AUGMENTATIONS,
    CROP_PADDING,
    MAX_CROP_PADDING,
    MAX_RANDAUGMENT_MAGNITUDE,
    PADDING_MODES,
    RANDAUGMENT_MAGNITUDE,
)
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.errors import InputError
from tf_lars.setting import Rule, one_of, setting, within

DATA = "Data and augmentation"
"""Group of these settings in `--help`."""


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What a run trains on, and how images are shown; part of `TrainingSettings`.

    Raises:
      InputError: A setting is out of range, or there are two sources of images.
    """

    data_dir: str = setting(
        "Local folder written by launch.prepare_imagenet.",
        "",
        group=DATA,
        identifies_run=False,  # what is in it does
        hosts_may_differ=True,
    )
    data: str | None = setting(
        "synthetic[:IMAGES[:CLASSES]] trains on noise instead of --data_dir: one batch, made once "
        "and repeated, of the size and type of real ones, to measure the rate of a cluster "
        f"without a data set. By default {synthetic_data.IMAGES:,} images of "
        f"{synthetic_data.CLASSES:,} classes, as in ImageNet.",
        None,
        rule=Rule(synthetic_data.WORDS, synthetic_data.is_synthetic),
        group=DATA,
        identifies_run=False,  # numbers of images and classes do
    )
    image_size: int = setting(
        "Side of the square images, in pixels.", 224, rule=table.image_size(), group=DATA
    )
    image_size_schedule: str | None = setting(
        "Sides of the training images by epoch, as epoch:size,... such as 0:128,18:160,32:224; "
        "evaluation uses --image_size. By default training uses it too.",
        None,
        group=DATA,
    )
    augmentation: str = setting(
        "reference: random box and flip; randaugment or augmix: the same, followed by operations "
        "on the image; pad_crop: centre crop, padded and cropped at random, and flip, for small "
        "images; none: centre crop.",
        "reference",
        rule=one_of(*AUGMENTATIONS),
        group=DATA,
    )
    flip: bool = setting(
        "Mirror half of the images in training, with every --augmentation but none; --noflip for "
        "digits and characters, which mirroring turns into others.",
        True,
        group=DATA,
    )
    crop_padding: float = setting(
        "Padding of pad_crop on each side, as a share of the side of the images, rounded to whole "
        "pixels: 0.125 is 4 of 32.",
        CROP_PADDING,
        rule=within(0, MAX_CROP_PADDING),
        group=DATA,
    )
    crop_padding_mode: str = setting(
        "What pad_crop pads with: reflect, the mirrored margin of the image, or zeros, black.",
        PADDING_MODES[0],
        rule=one_of(*PADDING_MODES),
        group=DATA,
    )
    randaugment_magnitude: float = setting(
        f"Strength of RandAugment's two operations, 0 to {MAX_RANDAUGMENT_MAGNITUDE:g}.",
        RANDAUGMENT_MAGNITUDE,
        rule=within(0, MAX_RANDAUGMENT_MAGNITUDE),
        group=DATA,
    )
    mixup_alpha: float = setting(
        "Blend images and labels in pairs, with weights from Beta(alpha, alpha); 0: off. With "
        "--cutmix_alpha too, each example takes one of the two at random. The training accuracy is "
        "then that on the class of the larger weight.",
        0.0,
        rule=within(0, 1000),
        group=DATA,
    )
    cutmix_alpha: float = setting(
        "Paste a box of another image, with its area from Beta(alpha, alpha), and blend the labels "
        "by area; 0: off.",
        0.0,
        rule=within(0, 1000),
        group=DATA,
    )
    random_erasing_probability: float = setting(
        "Probability that a box of 2 to 40 % of an image is painted over.",
        0.0,
        rule=within(0, 1),
        group=DATA,
    )
    crop_fraction: float = setting(
        "Side of the evaluation's centre crop over the image's short side.",
        0.875,
        rule=table.fraction(),
        group=DATA,
    )
    max_bad_records: int = setting(
        "Damaged or undecodable records of a split that may be skipped; each is named in the log "
        "of the worker that meets it.",
        0,
        rule=within(0, 1_000_000),
        group=DATA,
        identifies_run=False,
        evaluation_may_override=True,
    )
    cache: bool = setting(
        "Keep decoded images in memory, in each worker process; pays off for full-size photos.",
        False,
        group=DATA,
        identifies_run=False,
        evaluation_may_override=True,
    )
    seed: int = setting(
        "Seed of weights, order and augmentation.", 0, rule=table.seed(), group=DATA
    )

    @property
    def largest_image_size(self) -> int:
        """Side of the largest images that are shown to the network, in pixels."""
        if not self.image_size_schedule:
            return self.image_size
        starts = ImageSizeSchedule.parse(self.image_size_schedule).starts
        return max(self.image_size, *(size for _, size in starts))

    def __post_init__(self):
        table.check(self)
        if self.image_size_schedule:
            ImageSizeSchedule.parse(self.image_size_schedule)
        if self.data and self.data_dir:
            raise InputError(
                "A run has one source of images. Received: "
                f"--data={self.data} and --data_dir={self.data_dir}. Leave out one of them; an "
                "empty --data_dir= takes back that of a flagfile."
            )

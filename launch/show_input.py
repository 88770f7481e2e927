"""Draws images as the network sees them: after the input pipeline and the device's part of it.

python -m launch.show_input --data_dir=DATA --output=sheet.png --augmentation=randaugment

The picture is that of a training step on one device with a batch of --num_images.
"""

import dataclasses

from launch.cli import app, flags
from launch.run import build_input
from launch.run.settings import INPUT_SETTINGS, TrainingSettings
from tf_lars import files
from tf_lars.data import order
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import EXIT_DONE, require
from tf_lars.setting import MOST_EPOCHS, check, one_of, picture, setting, within

_GROUP = "Contact sheet"


@dataclasses.dataclass(frozen=True)
class SheetSettings:
    """Settings of a contact sheet; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    output: str = setting("Path of the PNG file to write.", "", rule=picture(), group=_GROUP)
    split: str = setting(
        "train or validation.", "train", rule=one_of("train", "validation"), group=_GROUP
    )
    epoch: int = setting(
        "Epoch of the training images, from 0.", 0, rule=within(0, MOST_EPOCHS - 1), group=_GROUP
    )
    num_images: int = setting("Number of images.", 32, rule=within(1, 256), group=_GROUP)

    def __post_init__(self):
        check(self)
        require(self.output, "--output", "the PNG file to write", self.output)


def define() -> None:
    """Defines the flags of this program."""
    flags.define(SheetSettings)
    flags.define(TrainingSettings, INPUT_SETTINGS)


def main() -> int:
    """Draws the sheet; returns the exit code of the program."""
    sheet = SheetSettings(**flags.values(SheetSettings))
    settings = TrainingSettings(**flags.values(TrainingSettings))
    build_input.open_folder(settings, sheet.num_images)
    info = DatasetInfo.load(settings.data_dir)

    from tf_lars.data import contact_sheet
    from tf_lars.data.image_input import to_device_batch
    from tf_lars.data.input_errors import told_by_input

    with told_by_input():
        batch = next(iter(_batches(settings, sheet)))
    images, targets, weights = to_device_batch(batch, info.num_classes)
    images, targets = images.numpy(), targets.numpy()
    if weights is not None:  # padding
        images, targets = images[weights.numpy() > 0], targets[weights.numpy() > 0]
    title = _title(settings, sheet, info, images.shape[1])
    with files.writing(sheet.output):
        contact_sheet.draw(images, targets, info.class_names, sheet.output, title)
    print(f"{len(images)} images in {sheet.output}")
    return EXIT_DONE


def _batches(settings: TrainingSettings, sheet: SheetSettings):
    import tensorflow as tf

    alone = tf.distribute.InputContext(1, 0, 1)
    if sheet.split == "validation":
        return build_input.evaluation(settings, sheet.num_images).dataset(alone)
    data = build_input.training(settings, sheet.num_images)
    first = order.evaluation_steps(sheet.epoch * data.num_examples, sheet.num_images)
    return data.dataset(alone, first, first + 1)


def _title(settings: TrainingSettings, sheet: SheetSettings, info: DatasetInfo, size: int) -> str:
    if sheet.split == "validation":
        return f"{info.name}, validation, {size} px"
    is_randaugment = settings.augmentation == "randaugment"
    flips = settings.flip or settings.augmentation == "none"
    named = {
        "magnitude": is_randaugment and settings.randaugment_magnitude,
        "padding": settings.augmentation == "pad_crop" and settings.crop_padding,
        "MixUp": settings.mixup_alpha,
        "CutMix": settings.cutmix_alpha,
        "random erasing": settings.random_erasing_probability,
    }
    return ", ".join(
        [
            f"{info.name}, training, epoch {sheet.epoch}, seed {settings.seed}",
            f"{size} px, augmentation {settings.augmentation}{'' if flips else ' without flips'}",
            *(f"{name} {value:g}" for name, value in named.items() if value),
        ]
    )


if __name__ == "__main__":
    define()
    app.run(main)

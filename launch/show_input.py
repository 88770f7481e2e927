"""Draws what the network sees: images after the input pipeline and the device's part of it.

python -m launch.show_input --data_dir=DATA --output=sheet.png --augmentation=randaugment

The picture is that of a training step on one device with a batch of --num_images.
"""

import os

from absl import flags as absl_flags

from launch.cli import app, flags
from launch.run import build_input
from launch.run.settings import INPUT_SETTINGS, TrainingSettings
from tf_lars.data import order
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import EXIT_DONE, InputError

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    flags.define(TrainingSettings, INPUT_SETTINGS)
    absl_flags.DEFINE_string("output", "", "The PNG file to write.")
    absl_flags.DEFINE_enum("split", "train", ["train", "validation"], "Which images.")
    absl_flags.DEFINE_integer("epoch", 0, "Epoch of the training images, from 0.", lower_bound=0)
    absl_flags.DEFINE_integer("num_images", 32, "How many images.", lower_bound=1, upper_bound=256)


def main() -> int:
    """Draws the sheet."""
    if not FLAGS.output:
        raise InputError("--output is required. Received: none. Name the PNG file to write.")
    folder = os.path.dirname(FLAGS.output) or "."
    if not (FLAGS.output.endswith(".png") and os.path.isdir(folder)):
        raise InputError(
            f"--output must be a .png file in an existing folder. Received: {FLAGS.output!r}."
        )
    settings = TrainingSettings(**flags.values(TrainingSettings))
    build_input.describe_once(settings.data_dir)
    info = DatasetInfo.load(settings.data_dir)

    from tf_lars.data import contact_sheet
    from tf_lars.data.image_input import to_device_batch

    batch = next(iter(_batches(settings)))
    images, targets, weights = to_device_batch(batch, info.num_classes)
    images, targets = images.numpy(), targets.numpy()
    if weights is not None:  # padding
        images, targets = images[weights.numpy() > 0], targets[weights.numpy() > 0]
    title = _title(settings, info, images.shape[1])
    contact_sheet.draw(images, targets, info.class_names, FLAGS.output, title)
    print(f"{len(images)} images in {FLAGS.output}")
    return EXIT_DONE


def _batches(settings: TrainingSettings):
    import tensorflow as tf

    alone = tf.distribute.InputContext(1, 0, 1)
    if FLAGS.split == "validation":
        return build_input.evaluation(settings, FLAGS.num_images).dataset(alone)
    data = build_input.training(settings, FLAGS.num_images)
    first = order.evaluation_steps(FLAGS.epoch * data.num_examples, FLAGS.num_images)
    return data.dataset(alone, first, first + 1)


def _title(settings: TrainingSettings, info: DatasetInfo, size: int) -> str:
    if FLAGS.split == "validation":
        return f"{info.name}, validation, {size} px"
    is_randaugment = settings.augmentation == "randaugment"
    named = {
        "magnitude": is_randaugment and settings.randaugment_magnitude,
        "MixUp": settings.mixup_alpha,
        "CutMix": settings.cutmix_alpha,
        "random erasing": settings.random_erasing_probability,
    }
    return ", ".join(
        [
            f"{info.name}, training, epoch {FLAGS.epoch}, seed {settings.seed}",
            f"{size} px, augmentation {settings.augmentation}",
            *(f"{name} {value:g}" for name, value in named.items() if value),
        ]
    )


if __name__ == "__main__":
    define()
    app.run(main)

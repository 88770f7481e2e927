"""Draws what the network sees: images after the input pipeline and the device's part of it.

python -m launch.show_input --data_dir=DATA --output=sheet.png --augmentation=randaugment

The picture is that of a training step on one device with a batch of --num_images.
"""

import os

from absl import flags

from launch import app
from launch import input as inputs
from launch.flags import define_input
from tf_lars.data import order
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import EXIT_DONE, InputError

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    define_input()
    flags.DEFINE_string("output", "", "The PNG file to write.")
    flags.DEFINE_enum("split", "train", ["train", "validation"], "Which images.")
    flags.DEFINE_integer("epoch", 0, "Epoch of the training images, from 0.", lower_bound=0)
    flags.DEFINE_integer("num_images", 32, "How many images.", lower_bound=1, upper_bound=256)


def main() -> int:
    """Draws the sheet."""
    if not FLAGS.output:
        raise InputError("--output is required. Received: none. Name the PNG file to write.")
    folder = os.path.dirname(FLAGS.output) or "."
    if not (FLAGS.output.endswith(".png") and os.path.isdir(folder)):
        raise InputError(
            f"--output must be a .png file in an existing folder. Received: {FLAGS.output!r}."
        )
    if FLAGS.image_size < 1:
        raise InputError(f"--image_size must be at least 1. Received: {FLAGS.image_size}.")
    inputs.describe_once(FLAGS.data_dir)
    info = DatasetInfo.load(FLAGS.data_dir)

    from tf_lars.data.imagenet import to_device_batch
    from tf_lars.tracking import contact_sheet

    batch = next(iter(_batches()))
    images, targets, weights = to_device_batch(batch, info.num_classes)
    images, targets = images.numpy(), targets.numpy()
    size = images.shape[1]
    if weights is not None:  # padding
        images, targets = images[weights.numpy() > 0], targets[weights.numpy() > 0]
    contact_sheet.draw(images, targets, info.class_names, FLAGS.output, _title(info, size))
    print(f"{len(images)} images in {FLAGS.output}")
    return EXIT_DONE


def _batches():
    import tensorflow as tf

    alone = tf.distribute.InputContext(1, 0, 1)
    if FLAGS.split == "validation":
        return inputs.evaluation(FLAGS, FLAGS.num_images).dataset(alone)
    data = inputs.training(FLAGS, FLAGS.num_images)
    first = order.evaluation_steps(FLAGS.epoch * data.num_examples, FLAGS.num_images)
    return data.dataset(alone, first, first + 1)


def _title(info: DatasetInfo, size: int) -> str:
    if FLAGS.split == "validation":
        return f"{info.name}, validation, {size} px"
    named = {
        "magnitude": FLAGS.augmentation == "randaugment" and FLAGS.randaugment_magnitude,
        "MixUp": FLAGS.mixup_alpha,
        "CutMix": FLAGS.cutmix_alpha,
        "random erasing": FLAGS.random_erasing_probability,
    }
    return ", ".join(
        [
            f"{info.name}, training, epoch {FLAGS.epoch}, seed {FLAGS.seed}",
            f"{size} px, augmentation {FLAGS.augmentation}",
            *(f"{name} {value:g}" for name, value in named.items() if value),
        ]
    )


if __name__ == "__main__":
    define()
    app.run(main)

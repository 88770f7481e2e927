"""Measures the input pipeline on this machine: images/s, CPU per image, devices that it can feed.

python -m launch.measure_input --data_dir=DATA --image_size=224 --devices_per_host=8
"""

from absl import flags

from launch import app
from launch import input as inputs
from launch.flags import define_input
from tf_lars.data import order
from tf_lars.errors import EXIT_DONE, InputError

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    define_input()
    flags.DEFINE_integer("global_batch_size", 256, "Images in each batch.", lower_bound=1)
    flags.DEFINE_float("seconds", 10.0, "How long to measure each of training and evaluation.")
    flags.DEFINE_integer(
        "devices_per_host", 1, "GPUs or TPU cores that share this machine's cores.", lower_bound=1
    )
    flags.DEFINE_float(
        "device_images_per_second", None, "What one device trains on, to tell which is the limit."
    )


def main() -> int:
    """Runs the program; returns its exit code."""
    if not FLAGS.data_dir:
        raise InputError("--data_dir is required. Received: none. Name a prepared folder.")
    inputs.describe_once(FLAGS.data_dir)

    import tensorflow as tf

    from tf_lars.data import measure

    training = inputs.training(FLAGS, FLAGS.global_batch_size)
    evaluation = inputs.evaluation(FLAGS, FLAGS.global_batch_size)
    alone = tf.distribute.InputContext(1, 0, 1)
    steps = order.evaluation_steps(training.num_examples, FLAGS.global_batch_size)
    rates = {
        "training": measure.measure(training.dataset(alone, 0, steps), FLAGS.seconds),
        "evaluation": measure.measure(evaluation.dataset(alone), FLAGS.seconds),
    }
    print(measure.table(rates))
    print(
        measure.verdict(rates["training"], FLAGS.devices_per_host, FLAGS.device_images_per_second)
    )
    return EXIT_DONE


if __name__ == "__main__":
    define()
    app.run(main)

"""Measures the input pipeline on this machine: images/s, CPU per image, devices that it can feed.

python -m launch.measure_input --data_dir=DATA --image_size=224 --devices_per_host=8
"""

from absl import flags as absl_flags

from launch.cli import app, flags
from launch.run import build_input
from launch.run.settings import INPUT_SETTINGS, TrainingSettings
from tf_lars.data import order
from tf_lars.errors import EXIT_DONE, require

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    flags.define(TrainingSettings, (*INPUT_SETTINGS, "global_batch_size"))
    absl_flags.DEFINE_float("seconds", 10.0, "Seconds to measure training and evaluation each.")
    absl_flags.DEFINE_integer(
        "devices_per_host", 1, "GPUs or TPU cores that share this machine's cores.", lower_bound=1
    )
    absl_flags.DEFINE_float(
        "device_images_per_second",
        None,
        "Images per second that one device trains on, to tell which of the two is the limit.",
    )


def main() -> int:
    """Runs the program; returns its exit code."""
    settings = TrainingSettings(**flags.values(TrainingSettings))
    require(settings.data_dir, "--data_dir", "a prepared folder", settings.data_dir)
    build_input.describe_once(settings.data_dir)

    import tensorflow as tf

    from tf_lars.data import throughput

    batch = settings.global_batch_size
    training = build_input.training(settings, batch)
    evaluation = build_input.evaluation(settings, batch)
    alone = tf.distribute.InputContext(1, 0, 1)
    steps = order.evaluation_steps(training.num_examples, batch)
    rates = {
        "training": throughput.measure(training.dataset(alone, 0, steps), FLAGS.seconds),
        "evaluation": throughput.measure(evaluation.dataset(alone), FLAGS.seconds),
    }
    print(throughput.table(rates))
    print(
        throughput.verdict(
            rates["training"], FLAGS.devices_per_host, FLAGS.device_images_per_second
        )
    )
    return EXIT_DONE


if __name__ == "__main__":
    define()
    app.run(main)

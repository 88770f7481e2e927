"""Measures the input pipeline: images/s, CPU time per image, and the devices it can feed.

python -m launch.measure_input --data_dir=DATA --image_size=224 --devices_per_host=8
"""

import dataclasses

from launch.cli import app, flags
from launch.run import build_input
from launch.run.settings import INPUT_SETTINGS, TrainingSettings
from tf_lars.data import order
from tf_lars.errors import EXIT_DONE
from tf_lars.setting import above, check, setting, within

_GROUP = "Measurement"


@dataclasses.dataclass(frozen=True)
class MeasurementSettings:
    """Settings of a measurement; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    seconds: float = setting(
        "Seconds to measure, for training and for evaluation each.",
        10.0,
        rule=above(0, 24 * 3600),
        group=_GROUP,
    )
    devices_per_host: int = setting(
        "Number of GPUs or TPU cores that share this machine's CPU cores.",
        1,
        rule=within(1, 100_000),
        group=_GROUP,
    )
    device_images_per_second: float | None = setting(
        "Images per second that one device trains on, to tell whether the input or the device is "
        "the limit.",
        None,
        rule=above(0, 1e12),
        group=_GROUP,
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the flags of this program."""
    flags.define(MeasurementSettings)
    flags.define(TrainingSettings, (*INPUT_SETTINGS, "global_batch_size"))


def main() -> int:
    """Runs the program; returns its exit code."""
    measurement = MeasurementSettings(**flags.values(MeasurementSettings))
    settings = TrainingSettings(**flags.values(TrainingSettings))
    build_input.open_folder(settings, settings.global_batch_size)

    import tensorflow as tf

    from tf_lars.data import throughput
    from tf_lars.data.input_errors import told_by_input

    batch = settings.global_batch_size
    training = build_input.training(settings, batch)
    evaluation = build_input.evaluation(settings, batch)
    alone = tf.distribute.InputContext(1, 0, 1)
    steps = order.evaluation_steps(training.num_examples, batch)
    seconds = measurement.seconds
    with told_by_input():
        rates = {
            "training": throughput.measure(training.dataset(alone, 0, steps), seconds),
            "evaluation": throughput.measure(evaluation.dataset(alone), seconds),
        }
    print(throughput.table(rates))
    print(
        throughput.verdict(
            rates["training"], measurement.devices_per_host, measurement.device_images_per_second
        )
    )
    return EXIT_DONE


if __name__ == "__main__":
    define()
    app.run(main)

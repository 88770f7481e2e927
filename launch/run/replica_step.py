"""Exports the step of one replica of the run that training settings describe."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import models
from launch.run import batch_norm_groups, build_input, build_model
from launch.run.settings import TrainingSettings
from tf_lars.data import order
from tf_lars.data.batch_schedule import sizes_of
from tf_lars.errors import InputError
from tf_lars.xla.exported_step import ExportedStep

if TYPE_CHECKING:
    from tf_lars.xla.step_program import StepProgram


def for_replicas(
    settings: TrainingSettings, replicas: int, per_replica_batch_size: int | None
) -> TrainingSettings:
    """Returns the settings of the largest step of a run on a number of devices.

    Of a schedule of batches or of image sizes, that is the step with the largest of each.

    Args:
      settings: Settings of the run.
      replicas: Number of devices.
      per_replica_batch_size: Examples of each, in the place of the run's global batch.

    Raises:
      InputError: The batch does not divide among the devices, or the micro-batch is to be found by
        trial on them.
    """
    if settings.micro_batch_size == "auto":
        raise InputError(
            "A step is compiled for one size of micro-batches. Received: --micro_batch_size=auto, "
            "which is found by trial on the device. Give a number, or leave it out."
        )
    batch, micro = max(sizes_of(settings.batches)), settings.micro_batch_size
    if per_replica_batch_size is not None:
        batch = per_replica_batch_size * replicas
    elif settings.batch_size_schedule:
        micro = order.common_micro_batch(micro, order.shares(settings.batches, replicas))
    share = order.per_replica_batch_size(batch, replicas)
    if isinstance(micro, int):
        order.num_micro_batches(share, micro)
    return dataclasses.replace(
        settings,
        global_batch_size=batch,
        batch_size_schedule=None,
        batch_schedule_rate=None,
        image_size=settings.largest_image_size,
        image_size_schedule=None,
        micro_batch_size=None if micro == share else micro,
    )


def export(settings: TrainingSettings, replicas: int) -> ExportedStep:
    """Returns the step of one replica.

    Args:
      settings: Settings of the run, by `for_replicas`.
      replicas: Number of replicas.

    Raises:
      InputError: The model cannot be trained, or has operations that accelerators lack.
    """
    micro = settings.micro_batch_size
    assert not isinstance(micro, str), micro
    made, about = program(settings, replicas, micro)
    return made.exported(about, whole=program(settings, replicas, None)[0] if micro else None)


def program(
    settings: TrainingSettings, replicas: int, micro_batch_size: int | None
) -> tuple["StepProgram", dict[str, Any]]:
    """Returns the program of one replica, and what it is of: see `ExportedStep.about`.

    Args:
      settings: Settings of the run, by `for_replicas`.
      replicas: Number of replicas.
      micro_batch_size: Images that the replica processes at a time, whatever the settings say.

    Raises:
      InputError: The model cannot be trained.
    """
    import keras
    import tensorflow as tf

    from tf_lars.data.image_input import to_device_batch
    from tf_lars.xla.one_of_many import OneOfMany
    from tf_lars.xla.step_program import StepProgram

    settings, _ = batch_norm_groups.resolve(settings, replicas)
    info = build_input.description(settings)
    data = build_input.training(settings, settings.global_batch_size)
    context = tf.distribute.InputContext(1, 0, replicas)
    element = data.dataset(context, 0, 1).element_spec

    strategy = OneOfMany(replicas)
    with strategy.scope():
        model = build_model.create(
            settings,
            num_classes=info.num_classes,
            steps=settings.steps_over(data.num_examples).epoch_ends(settings.epochs)[-1],
            num_examples=data.num_examples,
        )
    made = StepProgram(
        model,
        strategy,
        element,
        prepare_batch=functools.partial(to_device_batch, num_classes=info.num_classes),
        micro_batch_size=micro_batch_size,
        reduction_dtype=settings.gradient_reduction_dtype,
        observe_parts=settings.noise_scale,
    )
    description = models.describe(model, settings.image_size)
    return made, {
        "model": settings.model,
        "image_size": settings.image_size,
        "optimizer": settings.optimizer,
        "mixed_precision": settings.mixed_precision,
        "per_replica_batch_size": settings.global_batch_size // replicas,
        "micro_batch_size": micro_batch_size,
        "parameters": description.parameters,
        "forward_flops": description.forward_flops,
        "versions": f"tensorflow {tf.__version__}, keras {keras.__version__}",
    }

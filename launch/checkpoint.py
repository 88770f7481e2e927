"""A model with the weights of a run's checkpoint, ready to be evaluated or exported."""

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, NamedTuple

from absl import flags as absl_flags

from launch import model as model_of
from launch.settings import TrainingSettings, read_arguments
from launch.training import CHECKPOINTS
from tf_lars.data import order
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.checkpoints import Checkpoint

NEWEST, BEST = "newest", "best"


class Loaded(NamedTuple):
    """A run's model, and where its weights are from."""

    trainer: "Trainer"
    checkpoint: "Checkpoint"


def define() -> None:
    """Defines the flags that say which checkpoint of which run."""
    absl_flags.DEFINE_string("model_dir", "", "Folder of a run of launch.local.")
    absl_flags.DEFINE_string(
        "checkpoint",
        NEWEST,
        "newest; best, the one with the highest validation top-1 among those kept; or the path of "
        "one.",
    )
    absl_flags.DEFINE_string("data_dir", "", "Prepared data set; by default that of the run.")


def settings_of_run() -> TrainingSettings:
    """Returns the settings of the run that the flags name.

    Raises:
      InputError: there is no such run.
    """
    given = absl_flags.FLAGS
    if not given.model_dir:
        raise InputError("--model_dir must be the folder of a run. Received: ''.")
    settings = read_arguments(os.path.join(given.model_dir, "flags.txt"))
    return dataclasses.replace(
        settings, model_dir=given.model_dir, data_dir=given.data_dir or settings.data_dir
    )


def load(
    settings: TrainingSettings, info: DatasetInfo, strategy: "tf.distribute.Strategy"
) -> Loaded:
    """Builds the model of a run under a strategy, and restores the checkpoint of the flags.

    Where the run kept averages of its weights, they are what the trainer evaluates.

    Raises:
      InputError: no such checkpoint, or data with another number of classes.
    """
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.data.imagenet import to_device_batch

    checkpoint = _chosen(os.path.join(settings.model_dir, CHECKPOINTS), absl_flags.FLAGS.checkpoint)
    examples = info.splits["train"].num_examples
    with strategy.scope():
        model = model_of.create(
            settings,
            num_classes=info.num_classes,
            steps=order.epoch_end_steps(examples, settings.global_batch_size, settings.epochs)[-1],
            num_examples=examples,
        )
    trainer = Trainer(
        model,
        strategy,
        prepare_batch=functools.partial(to_device_batch, num_classes=info.num_classes),
        evaluate_average=bool(settings.ema_momentum),
    )
    size = settings.image_size
    trainer.build(
        {
            "image": tf.TensorSpec([1, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([1], tf.int32),
        }
    )
    checkpoint.read_into(model)
    return Loaded(trainer, checkpoint)


def _chosen(directory: str, which: str) -> "Checkpoint":
    from tf_lars import checkpoints

    if which not in (NEWEST, BEST):
        found = checkpoints.open_checkpoint(which)
    elif which == NEWEST:
        found = next(checkpoints.whole_checkpoints(directory), None)
    else:
        whole = {one.step: one for one in checkpoints.whole_checkpoints(directory)}
        history = max((one.history for one in whole.values()), key=len, default=[])
        best = checkpoints.best_step(history, "val_top1", whole)
        found = None if best is None else whole[best]
    if found is None:
        raise InputError(
            f"--checkpoint must be {NEWEST}, {BEST} or the folder of a whole checkpoint. Received: "
            f"{which!r}, and no such one for {directory!r}."
        )
    return found

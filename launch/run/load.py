"""Loads the model of a run's checkpoint, for evaluation or export."""

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, NamedTuple

from launch.run import build_model
from launch.run.layout import CHECKPOINTS, FLAGS
from launch.run.settings import TrainingSettings, read_arguments
from models import user_model
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError, require

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.training.checkpoints import Checkpoint

NEWEST, BEST = "newest", "best"
PROGRAM = os.path.realpath(os.path.join(os.path.dirname(user_model.__file__), os.pardir))
"""Folder of the checkout whose program this is."""
CODE_FOLDERS = ("tf_lars", "models", "launch", "examples")
"""Folders of code in it. Others, such as runs/ and .venv/, hold what others may have written."""


class Loaded(NamedTuple):
    """A run's model, and the checkpoint of its weights."""

    trainer: "Trainer"
    checkpoint: "Checkpoint"


def settings_of_run(
    model_dir: str,
    data_dir: str = "",
    *,
    model: str | None = None,
    trust_model_file: bool = False,
) -> TrainingSettings:
    """Returns the settings of a run.

    Args:
      model_dir: Folder of the run.
      data_dir: Folder of the data to use instead of the run's own; ignored if that is synthetic.
      model: Model in the place of the one in the run's flags.txt.
      trust_model_file: Whether that one may be any code.

    Raises:
      InputError: There is no such run, or its model is code from outside this program.
    """
    require(model_dir, "--model_dir", "the folder of a run", model_dir)
    path = os.path.join(model_dir, FLAGS)
    settings = read_arguments(path)
    if model is None and not trust_model_file:
        _require_own_code(settings.model, path)
    return dataclasses.replace(
        settings,
        model=settings.model if model is None else model,
        model_dir=model_dir,
        data_dir="" if settings.data else data_dir or settings.data_dir,
    )


def _require_own_code(model: str, path: str) -> None:
    """Requires that a model that flags.txt names is code of this program, if it is code.

    Raises:
      InputError: It is other code, chosen by someone with write access to the run's folder.
    """
    if ":" not in model:
        return
    source = user_model.location_of(model)
    run = os.path.dirname(path)
    trusted = [os.path.join(PROGRAM, folder) for folder in CODE_FOLDERS]
    if source is None or _is_in(source, run) or not any(_is_in(source, one) for one in trusted):
        raise InputError(
            "A model that is code must be that of this program or be named by you, since it runs "
            f"with your rights. Received: --model={model} in {path!r}. If you trust it, name it "
            "with --model, or give --trust_model_file."
        )


def _is_in(path: str, folder: str) -> bool:
    """Returns whether a path lies in a folder, after all symbolic links."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def load_run(
    settings: TrainingSettings,
    info: DatasetInfo,
    strategy: "tf.distribute.Strategy",
    which: str = NEWEST,
) -> Loaded:
    """Builds the model of a run under a strategy, and restores one of its checkpoints.

    If the run kept averages of its weights, the trainer evaluates the averages.

    Args:
      settings: Settings of the run.
      info: Description of the data.
      strategy: Strategy in whose scope the model is created.
      which: "newest"; "best", the kept checkpoint with the highest validation top-1; or the path of
        a checkpoint.

    Raises:
      InputError: If there is no such checkpoint, or the data has another number of classes.
    """
    import tensorflow as tf

    from tf_lars import Trainer
    from tf_lars.data.image_input import to_device_batch

    checkpoint = _chosen(os.path.join(settings.model_dir, CHECKPOINTS), which)
    examples = info.splits["train"].num_examples
    with strategy.scope():
        model = build_model.create(
            # Groups matter in training alone, and a file of Keras's own layers loads anywhere.
            dataclasses.replace(settings, batch_norm_group_size=None),
            num_classes=info.num_classes,
            steps=settings.steps_over(examples).epoch_ends(settings.epochs)[-1],
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
    from tf_lars.training import checkpoints

    if which not in (NEWEST, BEST):
        found = checkpoints.open_checkpoint(which)
    elif which == NEWEST:
        found = next(checkpoints.complete_checkpoints(directory), None)
    else:
        whole = {one.step: one for one in checkpoints.complete_checkpoints(directory)}
        history = max((one.history for one in whole.values()), key=len, default=[])
        best = checkpoints.best_step(history, "val_top1", whole)
        found = None if best is None else whole[best]
    if found is None:
        raise InputError(
            f"--checkpoint must be {NEWEST}, {BEST} or the path of a complete checkpoint. "
            f"Received: {which!r}, which selects none. The run's checkpoints are in {directory!r}."
        )
    return found

"""`--initial_weights`: a run that starts afresh takes over weights of another, or of a file."""

import io
import os
from typing import TYPE_CHECKING

from launch.run.layout import CHECKPOINTS, checkpoints_in
from launch.run.settings import TrainingSettings
from models import published_weights, weight_files
from models.registry import APPLICATIONS_PREFIX
from models.weight_transfer import SourceLayer, layers_of_model, transfer
from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.training.checkpoint_names import STATE

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tf_lars.training.checkpoint_folder import Checkpoint

IMAGENET = "imagenet"
_AVERAGED = (("optimizer",), ("optimizer", "inner_optimizer"))


def check(settings: TrainingSettings) -> None:
    """Checks, without TensorFlow unless a path is remote, that there may be weights.

    A run that resumes no longer needs them.

    Raises:
      InputError: There can be none.
    """
    source = settings.initial_weights
    if source is None or (settings.resume != "never" and checkpoints_in(settings.model_dir)):
        return
    if source == IMAGENET:
        published_weights.check(settings.model)
    elif files.is_folder(source):
        if not (checkpoints_in(source) or files.exists(os.path.join(source, STATE))):
            raise _no_checkpoint(source)
    elif not files.exists(source) or not source.endswith(weight_files.ENDINGS):
        what = "is no such file" if files.exists(source) else "does not exist"
        raise InputError(
            "--initial_weights must be the folder of a run or of a checkpoint, a file that ends in "
            f"{', '.join(weight_files.ENDINGS)}, or {IMAGENET}. Received: {source!r}, which {what}."
        )


def load(
    settings: TrainingSettings, model: "keras.Model", strategy: "tf.distribute.Strategy"
) -> str:
    """Loads the weights of all layers that fit, and returns a table of them.

    Every worker must call this.

    Args:
      settings: Settings of the run, with `initial_weights`.
      model: Built model.
      strategy: Strategy in whose scope the model was created.

    Raises:
      InputError: The source is missing or damaged, no layer fits, or another worker has loaded
        other weights.
    """
    import keras

    from tf_lars.tracking import results

    source = settings.initial_weights
    assert source
    is_keras_own = settings.model.startswith(APPLICATIONS_PREFIX)

    def keeps(layer) -> bool:
        # Keras publishes EfficientNet's statistics of colours for a network with one more layer.
        return is_keras_own and isinstance(layer, keras.layers.Normalization)

    layers = _layers(settings, model)
    with strategy.scope():
        try:
            done = transfer(model, layers, keeps)
        except OSError as error:
            raise weight_files.damaged(source, error) from error
    if not done.loaded:
        example = next(iter(done.missing), "none")
        there = "/".join(layers[0].path) if layers else "none"
        raise InputError(
            "--initial_weights must hold a layer with the name and shapes of one of the model's. "
            f"Received: {source!r}, of which none fits: its layers begin with {there!r}, those of "
            f"--model={settings.model} with {example!r}."
        )
    if strategy.num_replicas_in_sync > 1:
        digests = set(results.gather_digests(strategy, results.weights_sha256(model)))
        if len(digests) > 1:
            raise InputError(
                f"All workers must load the same weights. Received: {len(digests)} different ones "
                f"from --initial_weights={source}. Copy the file to all hosts again, or name a "
                "checkpoint of the run."
            )
    return done.table(source)


def _layers(settings: TrainingSettings, model: "keras.Model") -> list[SourceLayer]:
    source = settings.initial_weights
    assert source
    if source == IMAGENET:
        return layers_of_model(published_weights.model_with_weights(settings.model))
    if files.is_folder(source):
        return _of_checkpoint(_newest(source), settings, model)
    with files.reading(source), files.open_file(source, "rb") as file:
        content = file.read()
    return weight_files.layers_of_file(io.BytesIO(content), source)


def _newest(folder: str) -> "Checkpoint":
    from tf_lars.training.checkpoint_folder import complete_checkpoints, open_checkpoint

    found = open_checkpoint(folder)
    found = found or next(complete_checkpoints(os.path.join(folder, CHECKPOINTS)), None)
    if found is None:
        raise _no_checkpoint(folder)
    return found


def _of_checkpoint(
    checkpoint: "Checkpoint", settings: TrainingSettings, model: "keras.Model"
) -> list[SourceLayer]:
    """Returns the layers of a checkpoint, with averaged weights if the run evaluated these."""
    import tensorflow as tf

    from tf_lars.private_api import variables_in_checkpoint
    from tf_lars.training.checkpoint_folder import VARIABLES

    path = os.path.join(checkpoint.path, VARIABLES)
    listed = variables_in_checkpoint(path, ["state"])
    names = [name for name, _ in listed]
    if checkpoint.settings.get("model") == settings.model and len(names) == len(model.variables):
        # TensorFlow's names leave out the layers within a layer.
        names = [variable.path for variable in model.variables]
    value_of = {key: key for _, key in listed}
    for optimizer in _AVERAGED if checkpoint.settings.get("ema_momentum") else ():
        trained = variables_in_checkpoint(path, [*optimizer, "_trainable_variables"])
        averages = variables_in_checkpoint(path, [*optimizer, "_model_variables_moving_average"])
        keys = zip(trained, averages, strict=False)
        value_of |= {of: average for (_, of), (_, average) in keys}
    reader = tf.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    layers: dict[str, list[str]] = {}
    for name, (_, key) in zip(names, listed, strict=True):
        layers.setdefault(name.rpartition("/")[0], []).append(key)

    def source(name: str, keys: list[str]) -> SourceLayer:
        return SourceLayer(
            tuple(name.split("/")),
            tuple(tuple(shapes[key]) for key in keys),
            lambda: [reader.get_tensor(value_of[key]) for key in keys],
        )

    return [source(name, keys) for name, keys in layers.items()]


def _no_checkpoint(folder: str) -> InputError:
    return InputError(
        "--initial_weights must hold a complete checkpoint, if it is a folder. Received: "
        f"{folder!r}, without one. Name the --model_dir of a run, or one of its checkpoints."
    )

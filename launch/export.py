"""Exports the model of a run, which maps images with colours from 0 to 255 to logits.

python -m launch.export --model_dir=RUN --output=model.keras     (Keras)
python -m launch.export --model_dir=RUN --output=saved_model     (a TensorFlow SavedModel)
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launch.cli import app, flags, run_flags
from launch.run import build_input, load
from tf_lars.errors import EXIT_DONE, InputError
from tf_lars.setting import setting

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class ExportSettings(run_flags.CheckpointSettings):
    """Settings of an export; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    output: str = setting(
        "New file that ends in .keras, or new folder for a SavedModel.", "", group="Export"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.output.endswith((".h5", ".hdf5")):
            raise InputError(
                f"--output must end in .keras, or name a folder. Received: {self.output!r}, "
                "Keras's legacy format."
            )
        if not self.output or os.path.exists(self.output):
            raise InputError(
                "--output must be a file or folder that does not exist yet, so that nothing is "
                f"lost. Received: {self.output!r}."
            )


def define() -> None:
    """Defines the flags of this program."""
    flags.define(ExportSettings)


def main() -> int:
    """Exports the model."""
    asked = ExportSettings(**flags.values(ExportSettings))
    output = asked.output
    settings = asked.of_run()
    info = build_input.description(settings)

    import tensorflow as tf

    with _writing(output):
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    trainer, source = load.load_run(settings, info, tf.distribute.get_strategy(), asked.checkpoint)
    with _writing(output), trainer.averaged_weights():
        _write(trainer.model, output, settings.image_size_schedule or settings.image_size)
    print(f"exported {source.path} to {output}")
    return EXIT_DONE


def _write(model: "keras.Model", output: str, image_size: int | str) -> None:
    import keras

    from tf_lars.training.fused_batch_norm import unfuse_batch_norm

    unfuse_batch_norm(model)  # so that a file loads without this package
    # Drops the optimizer: Keras could not load it elsewhere, and it is as large as the weights.
    model.optimizer, model.compiled = None, False
    if output.endswith(".keras"):
        model.save(output)
        return
    side = image_size if isinstance(image_size, int) else None  # a schedule has several
    # By default, the signature of a subclassed model has the dtype in which it computes.
    images = keras.InputSpec(shape=(None, side, side, 3), dtype="float32")
    model.export(output, verbose=False, input_signature=[images])


@contextlib.contextmanager
def _writing(output: str) -> Iterator[None]:
    """Removes the partial output of an export that fails, and reports why it failed."""
    import tensorflow as tf

    try:
        yield
    except (OSError, NotImplementedError, tf.errors.OpError) as error:
        if os.path.isdir(output):
            shutil.rmtree(output, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(output)
        raise InputError(
            "--output must be writable, and Keras must be able to save the model in its format. "
            f"Received: {output!r} ({error}). Change --output or the model."
        ) from error


if __name__ == "__main__":
    define()
    app.run(main)

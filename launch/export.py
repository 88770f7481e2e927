"""Writes the model of a run for use elsewhere: images with colours from 0 to 255 in, logits out.

python -m launch.export --model_dir=RUN --output=model.keras     (Keras)
python -m launch.export --model_dir=RUN --output=saved_model     (a TensorFlow SavedModel)
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from launch.cli import app, run_flags
from launch.run import load
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import EXIT_DONE, InputError

if TYPE_CHECKING:
    import keras

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    run_flags.define()
    absl_flags.DEFINE_string(
        "output", "", "A file that ends in .keras, or the folder of a SavedModel; not there yet."
    )


def main() -> int:
    """Exports the model."""
    output = FLAGS.output
    if output.endswith((".h5", ".hdf5")):
        raise InputError(
            f"--output must end in .keras, or name a folder. Received: {output!r}, Keras's former "
            "format."
        )
    if not output or os.path.exists(output):
        raise InputError(
            "--output must be a file or a folder that is not there yet, so that nothing is lost. "
            f"Received: {output!r}."
        )
    settings = load.settings_of_run(FLAGS.model_dir, FLAGS.data_dir)
    info = DatasetInfo.load(settings.data_dir)

    import tensorflow as tf

    with _writing(output):
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    trainer, source = load.load_run(settings, info, tf.distribute.get_strategy(), FLAGS.checkpoint)
    with _writing(output), trainer.averaged_weights():
        _write(trainer.model, output, settings.image_size_schedule or settings.image_size)
    print(f"{source.path} is exported to {output}")
    return EXIT_DONE


def _write(model: "keras.Model", output: str, image_size: int | str) -> None:
    import keras

    # Without the optimizer: Keras could not read it elsewhere, and it is as large as the weights.
    model.optimizer, model.compiled = None, False
    if output.endswith(".keras"):
        model.save(output)
        return
    side = image_size if isinstance(image_size, int) else None  # a schedule has any
    # A subclassed model's own signature would be of the dtype that it computes in.
    images = keras.InputSpec(shape=(None, side, side, 3), dtype="float32")
    model.export(output, verbose=False, input_signature=[images])


@contextlib.contextmanager
def _writing(output: str) -> Iterator[None]:
    """Removes what was written of an export that fails, and says why it failed."""
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
            "--output must be a place that can be written to, and the model one that Keras can "
            f"write there. Received: {output!r} ({error}). Change the one or the other."
        ) from error


if __name__ == "__main__":
    define()
    app.run(main)

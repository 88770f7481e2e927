"""Writes the model of a run for use elsewhere: images with colours from 0 to 255 in, logits out.

python -m launch.export --model_dir=RUN --output=model.keras     (Keras)
python -m launch.export --model_dir=RUN --output=saved_model     (a TensorFlow SavedModel)
"""

import os

from absl import flags as absl_flags

from launch import app, checkpoint
from tf_lars.data.records import DatasetInfo
from tf_lars.errors import EXIT_DONE, InputError

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Defines the flags of this program."""
    checkpoint.define()
    absl_flags.DEFINE_string(
        "output", "", "A file that ends in .keras, or the folder of a SavedModel; not there yet."
    )


def main() -> int:
    """Exports the model."""
    output = FLAGS.output
    if not output or os.path.exists(output):
        raise InputError(
            "--output must be a file or a folder that is not there yet, so that nothing is lost. "
            f"Received: {output!r}."
        )
    settings = checkpoint.settings_of_run()
    info = DatasetInfo.load(settings.data_dir)

    import tensorflow as tf

    trainer, source = checkpoint.load(settings, info, tf.distribute.get_strategy())
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    with trainer.averaged_weights():
        if output.endswith(".keras"):
            trainer.model.save(output)
        else:
            trainer.model.export(output, verbose=False)
    print(f"{source.path} is exported to {output}")
    return EXIT_DONE


if __name__ == "__main__":
    define()
    absl_flags.adopt_module_key_flags(checkpoint)  # --help lists them too
    app.run(main)

"""TensorBoard scalars by optimizer step."""

import atexit
import contextlib
import os

import keras
import tensorflow as tf


class ScalarLogger(keras.callbacks.Callback):
    """Writes the scalars of training and of validation, as two runs that share charts.

    | tag | run | when | meaning |
    |---|---|---|---|
    | `loss` | train, validation | each loop; each evaluation | mean over the epoch so far; exact |
    | `top1`, `top5`, other metrics | train, validation | as `loss` | as `loss` |
    | `learning_rate` | train | each loop | rate of the next step |
    | `images_per_second` | train | each loop | rate of all replicas, without evaluation |
    | `skipped_steps` | train | each epoch, once there are any | count since the run began |
    | `bad_records` | train | each epoch, if some are allowed | see `BadRecordCount` |

    On a full or read-only disk, events are lost with a warning, and training continues.

    Args:
      directory: Folder for the event files.
    """

    def __init__(self, directory: str):
        super().__init__()
        self._directory = directory
        self._warned = False

    def on_train_begin(self, logs=None):
        """Opens the event files; not earlier, so that a run that is refused writes none."""
        self._writers = {
            run: tf.summary.create_file_writer(os.path.join(self._directory, run))
            for run in ("train", "validation")
        }
        atexit.register(self.on_train_end)  # if an error ends training

    def on_train_batch_end(self, batch, logs=None):
        """Writes the scalars of training."""
        self._write("train", int(batch) + 1, logs or {})

    def on_epoch_end(self, epoch, logs=None):
        """Writes the scalars of the epoch, including those of validation if it ran."""
        logs = logs or {}
        scalars = {
            name.removeprefix("val_"): value
            for name, value in logs.items()
            if name.startswith("val_") and name != "val_examples"
        }
        self._write("validation", int(logs["step"]), scalars)
        if "bad_records" in logs:
            self._write("train", int(logs["step"]), {"bad_records": logs["bad_records"]})
        if logs.get("skipped_steps"):
            self._write("train", int(logs["step"]), {"skipped_steps": logs["skipped_steps"]})
        for writer in self._writers.values():
            with self._or_warning():
                writer.flush()

    def on_train_end(self, logs=None):
        """Closes the event files."""
        for writer in self._writers.values():
            with self._or_warning():
                writer.close()

    def _write(self, run: str, step: int, scalars: dict[str, float]) -> None:
        with self._or_warning(), self._writers[run].as_default(step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _or_warning(self):
        try:
            yield
        except tf.errors.OpError as error:
            if not self._warned:
                print(
                    f"warning: TensorBoard's events cannot be written to {self._directory} "
                    f"({error.message.splitlines()[0][:200]}); training continues.",
                    flush=True,
                )
            self._warned = True

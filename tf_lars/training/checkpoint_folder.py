"""One checkpoint as a folder: writing, opening, checking and choosing among several.

A folder such as `step-00000084` holds all variables of the model, including random states, and the
optimizer's state, written by `tf.train.Checkpoint`, and `state.json`: the step, the history, the
run's settings, the SHA-256 of each file, and a checksum of its content. It is written last, so
a folder without it is incomplete; on a local file system, the folder appears under its name only
when it is complete.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.sealed_json import seal
from tf_lars.training.checkpoint_names import STATE, checkpoint_names, is_state, name_of

VARIABLES = "checkpoint"
"""Name of the files with the variables, without the ending."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
      path: Path of the folder.
      step: Number of global batches trained on.
      settings: Settings of the run, by name.
      history: History of the run, one entry per epoch.
      skipped_steps: Number of these steps whose gradients were not finite; None if not recorded.
    """

    path: str
    step: int
    settings: Mapping[str, object]
    history: list[dict[str, float]]
    skipped_steps: int | None = None

    def read_into(self, model: keras.Model) -> None:
        """Restores the model's variables and the optimizer's state.

        Args:
          model: Built model with a built optimizer.

        Raises:
          InputError: If the checkpoint was saved from another model or optimizer.
        """
        variables = variables_of(model)
        try:
            status = variables.read(os.path.join(self.path, VARIABLES))
            status.assert_existing_objects_matched().expect_partial()
        except (ValueError, AssertionError) as error:
            raise InputError(
                "A checkpoint fits only the model and optimizer that it was saved from. Received: "
                f"{self.path}, saved from another model or optimizer ({error}). Use that one, "
                "another folder, or --resume=never to start afresh."
            ) from error


def variables_of(model: keras.Model) -> tf.train.Checkpoint:
    """Returns the object that saves and restores a model, its random states and its optimizer."""
    # With Keras 3, TensorFlow finds neither random states nor the layers in a layer's lists and
    # dictionaries. Most variables are listed twice here; TensorFlow writes each of them once.
    state = list(model.variables)
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer, state=state)


def write_variables(variables: tf.train.Checkpoint, folder: str) -> None:
    """Writes the variables of a checkpoint into a folder."""
    variables.write(os.path.join(folder, VARIABLES))


def write(
    variables: tf.train.Checkpoint,
    path: str,
    partial: str,
    *,
    step: int,
    settings: Mapping[str, object],
    history: list[dict[str, float]],
    skipped_steps: int,
) -> None:
    """Writes a checkpoint, replacing one of the same name.

    Args:
      variables: Result of `variables_of`.
      path: Path of the folder.
      partial: Path in the same folder, for an incomplete checkpoint. Renaming a remote
        folder is not atomic, so there the checkpoint is written under its final name.
      step: Number of global batches trained on.
      settings: Settings of the run.
      history: History of the run.
      skipped_steps: Number of steps whose gradients were not finite.
    """
    if files.is_remote(path):
        files.remove_folder(path)
        partial = path
    files.make_folder(partial)  # tempfile.mkdtemp would bar all other users from it
    write_variables(variables, partial)
    state: dict[str, Any] = {
        "step": step,
        "settings": settings,
        "history": history,
        "skipped_steps": skipped_steps,
        "sha256": {
            name: files.hash_file(os.path.join(partial, name))[1] for name in files.names(partial)
        },
    }
    files.write_json(os.path.join(partial, STATE), seal(state))
    if partial != path:
        files.remove_folder(path)
        os.rename(partial, path)


def open_checkpoint(path: str) -> Checkpoint | None:
    """Returns a checkpoint, or None if any part of it is missing or damaged, whatever is wrong.

    Raises:
      InputError: If it may not be read.
    """
    try:
        state = files.read_json(os.path.join(path, STATE))
        sha256 = state["sha256"]
        whole = is_state(state) and all(
            files.hash_file(os.path.join(path, os.path.basename(name)))[1] == digest
            for name, digest in sha256.items()
        )
        return _checkpoint(path, state) if whole else None
    except PermissionError as error:
        raise InputError(
            f"Checkpoints must be readable. Received: {error}. Change the permissions, use another "
            "folder, or run as the user who wrote it."
        ) from error
    except InputError:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
        tf.errors.OpError,
    ):
        return None


def complete_checkpoints(directory: str) -> Iterator[Checkpoint]:
    """Yields the complete checkpoints in a folder, newest first; warns about the others."""
    for name in reversed(checkpoint_names(directory)):
        path = os.path.join(directory, name)
        checkpoint = open_checkpoint(path)
        if checkpoint and name_of(checkpoint.step) == name:
            yield checkpoint
        else:
            logging.warning("Skipping the checkpoint %s: it is incomplete or damaged.", path)


def best_step(
    history: Iterable[Mapping[str, float]], metric: str, steps: Iterable[int]
) -> int | None:
    """Returns the step after which a metric was highest; on a tie, the last one.

    Args:
      history: History of the run.
      metric: Name of a history entry.
      steps: Steps to choose from, such as those of the existing checkpoints.

    Returns:
      The best step, or None if the metric was not evaluated at any of the steps.
    """
    values = {entry["step"]: entry[metric] for entry in history if metric in entry}
    return max(
        (step for step in steps if step in values),
        key=lambda step: (values[step], step),
        default=None,
    )


def _checkpoint(path: str, state: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(
        path, state["step"], state["settings"], state["history"], state.get("skipped_steps")
    )

"""Published weights of Keras's own networks, trained on ImageNet, which Keras downloads."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.keras_defaults import keras_defaults
from models.registry import APPLICATIONS_PREFIX, KERAS_CV_PREFIX
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import keras

_SECONDS = 60.0
"""Time limit for an answer of the server."""


def check(name: str) -> None:
    """Checks, without Keras, that a model may have published weights.

    Raises:
      InputError: The model is not one of Keras's.
    """
    if not name.startswith((APPLICATIONS_PREFIX, KERAS_CV_PREFIX)):
        raise InputError(
            "--initial_weights=imagenet is for keras.applications/NAME and keras_cv/NAMEBackbone. "
            f"Received: --model={name}. Name a run or a file with its weights."
        )


def model_with_weights(name: str) -> "keras.Model":
    """Returns a network of Keras, for its own size of images, with its weights from ImageNet.

    They are downloaded, by one process of a machine at a time, unless they are in `$KERAS_HOME`
    (`~/.keras` by default) or, for KerasCV, in kagglehub's folder.

    Raises:
      InputError: There are no such weights, or they cannot be downloaded.
    """
    check(name)
    build = _application if name.startswith(APPLICATIONS_PREFIX) else _backbone
    try:
        with keras_defaults(), _alone(), _time_limit():
            return build(name.partition("/")[2])
    except InputError:
        raise
    except Exception as error:  # of any library that downloads
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            "--initial_weights=imagenet needs weights that Keras downloads. Received for "
            f"--model={name}: {reason}. Check the network, copy $KERAS_HOME from a machine that "
            "has them, or name a file."
        ) from error


def _application(name: str) -> "keras.Model":
    import keras

    return getattr(keras.applications, name)(weights="imagenet")


def _backbone(name: str) -> "keras.Model":
    from models.keras_cv_backbones import BACKBONES, keras_cv_models

    library = keras_cv_models(name)
    presets = getattr(getattr(library, name, None), "presets_with_weights", {})
    found = [preset for preset in presets if preset.endswith("_imagenet")]
    if not found:
        raise InputError(
            "--initial_weights=imagenet needs a backbone that KerasCV has published with weights "
            f"from ImageNet. Received: --model={KERAS_CV_PREFIX}{name}, without them. Use another, "
            "or name a file."
        )
    return getattr(library, BACKBONES[name][0]).from_preset(found[0])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keeps other processes from writing the same file at the same time."""
    folder = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a folder that cannot be written to
            os.makedirs(folder, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(folder, ".tf_lars.lock"), "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

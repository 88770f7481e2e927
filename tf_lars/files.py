"""Access to files by path: local ones with the standard library, remote ones with TensorFlow.

Programs that use only local files thus need not wait for TensorFlow. TensorFlow itself supports
`gs://`; tensorflow-io, where it is installed, adds `s3://` and others.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tf_lars.errors import InputError

_HASH_CHUNK = 1 << 20


def is_remote(path: str) -> bool:
    """Returns whether a path is on a remote file system, as in `gs://bucket/folder`."""
    return "://" in path


def is_folder(path: str) -> bool:
    """Returns whether a folder exists.

    Raises:
        InputError: TensorFlow has no file system for the path's scheme; all functions of this
            module raise it.
    """
    return _gfile(path).isdir(path) if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
    """Returns whether a file or folder exists."""
    return _gfile(path).exists(path) if is_remote(path) else os.path.exists(path)


def names(folder: str, hidden: bool = False) -> list[str]:
    """Returns the names in a folder, sorted; without hidden files and folders by default."""
    if is_remote(folder):  # gs:// marks folders with a slash
        found = [name.rstrip("/") for name in _gfile(folder).listdir(folder)]
    else:
        found = os.listdir(folder)
    return sorted(name for name in found if hidden or not name.startswith("."))


def size(path: str) -> int | None:
    """Returns the size of a file in bytes; None if it does not exist."""
    if not exists(path):
        return None
    return _gfile(path).stat(path).length if is_remote(path) else os.path.getsize(path)


def open_file(path: str, mode: str) -> Any:
    """Opens a file, as the built-in `open` does."""
    if is_remote(path):
        return _gfile(path).GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def rename(path: str, new_path: str) -> None:
    """Renames a finished file, replacing any file of the new name.

    A power cut leaves a whole file under the new name, or what was there before.
    """
    if is_remote(path):
        _gfile(path).rename(path, new_path, overwrite=True)
        return
    _to_storage(path)
    os.replace(path, new_path)


def _to_storage(path: str) -> None:
    """Waits until the content of a local file or folder is on its storage, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy(path: str, new_path: str) -> None:
    """Copies a file, replacing any file of the new name."""
    with open_file(path, "rb") as source, open_file(new_path, "wb") as target:
        shutil.copyfileobj(source, target)


def rename_folder(path: str, new_path: str) -> None:
    """Renames a folder to a path that does not exist; a remote one file by file."""
    if not is_remote(path):
        os.rename(path, new_path)
        return
    for folder, _, members in _gfile(path).walk(path):
        target = new_path + folder.rstrip("/")[len(path.rstrip("/")) :]
        make_folder(target)
        for name in members:
            rename(os.path.join(folder, name), os.path.join(target, name))
    remove_folder(path)


def remove(path: str) -> None:
    """Removes a file, if it exists."""
    if exists(path):
        (_gfile(path).remove if is_remote(path) else os.remove)(path)


def make_folder(path: str) -> None:
    """Creates a folder and its parents, if they do not exist."""
    with writing(path):
        if is_remote(path):
            _gfile(path).makedirs(path)
        else:
            os.makedirs(path, exist_ok=True)


def remove_folder(path: str) -> None:
    """Removes a folder and its contents, if it exists."""
    if not is_remote(path):
        if os.path.isdir(path):
            shutil.rmtree(path)
        return
    import tensorflow as tf

    # A folder of an object store is gone with its last file.
    with contextlib.suppress(tf.errors.NotFoundError):
        _gfile(path).rmtree(path)


def hash_file(path: str) -> tuple[int, str]:
    """Returns the size in bytes and the SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    num_bytes = 0
    with open_file(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
            num_bytes += len(chunk)
    return num_bytes, digest.hexdigest()


def read_json(path: str) -> Any:
    """Returns the content of a JSON file."""
    with open_file(path, "r") as file:
        return json.loads(file.read())


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, which appears under its name when complete, and then stays.

    Several processes, on several hosts, may write it at the same time.
    """
    temporary = temporary_path(f"{path}.{socket.gethostname()}.{os.getpid()}")
    with writing(path):
        with open_file(temporary, "w") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        rename(temporary, path)
    if not is_remote(path):
        with contextlib.suppress(OSError):  # not every file system can do this for folders
            _to_storage(os.path.dirname(path) or os.curdir)


def write_whole(path: str, content: bytes) -> None:
    """Writes a file, which appears under its name when complete.

    Raises:
      InputError: It cannot be written.
    """
    temporary = temporary_path(path)
    with writing(path):
        with open_file(temporary, "wb") as file:
            file.write(content)
        rename(temporary, path)


def temporary_path(path: str) -> str:
    """Returns a hidden path in the same folder, for an incomplete file."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.tmp")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turns file system errors raised while writing `path` into an `InputError`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _errors()):
            raise
        raise InputError(
            f"The output folder must be writable. Received: {error} (while writing {path!r}). "
            "Check its space and permissions, then run again."
        ) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns file system errors raised while reading `path` into an `InputError`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _errors()):
            raise
        raise InputError(
            f"A file must be readable. Received: {error} (while reading {path!r}). Check "
            "its permissions and its storage, then run again."
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    if "tensorflow" not in sys.modules:
        return (OSError,)
    import tensorflow as tf

    return (OSError, tf.errors.OpError)


def _gfile(path: str) -> Any:
    import tensorflow as tf

    scheme = path.partition("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        with contextlib.suppress(Exception):  # not installed, or built for another TensorFlow
            import tensorflow_io  # noqa: F401
    schemes = tf.io.gfile.get_registered_schemes()
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in sorted(schemes) if name not in ("", "file"))
        raise InputError(
            f"A remote path needs a file system that TensorFlow supports. Received: {path!r}, but "
            f"TensorFlow {tf.__version__} supports {known} here. Install a matching tensorflow-io, "
            "mount the storage as a folder, or use a local folder."
        )
    return tf.io.gfile

"""Reads the weights in files of Keras, layer by layer, without the code of the model."""

import io
import os
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from models.weight_transfer import Path, SourceLayer
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import h5py

ENDINGS = (".keras", ".h5", ".hdf5")
"""Endings of the files that can be read."""

_WEIGHTS_IN_ARCHIVE = "model.weights.h5"
_NO_LAYERS = ("optimizer", "_metrics")


def layers_of_file(content: io.BytesIO, path: str) -> list[SourceLayer]:
    """Returns the layers of a .keras file, or of an HDF5 file with weights.

    Args:
      content: File by Keras 3 (`save`, `save_weights`) or, with HDF5's ending, by Keras 2.
      path: Its path, for its ending and for messages.

    Raises:
      InputError: The file is damaged, or holds no weights with the names of layers.
    """
    try:
        layers = _layers(content, path)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    if not layers:
        raise InputError(
            "A file of weights must hold the names of its layers. Received: "
            f"{path!r}, without any. Save it again with a newer Keras."
        )
    return layers


def damaged(path: str, error: Exception) -> InputError:
    """Returns the error to raise for a file that cannot be read."""
    return InputError(
        "A file of weights must be as Keras has written it. Received: "
        f"{path!r}, which cannot be read ({error}). Copy or save it again."
    )


def _layers(content: io.BytesIO, path: str) -> list[SourceLayer]:
    import h5py

    if os.path.splitext(path)[1] == ".keras":
        with zipfile.ZipFile(content) as archive:
            content = io.BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE))
    file = h5py.File(content, "r")  # open as long as a layer may be read
    found = _legacy(file) if "layer_names" in file.attrs else _named(file, ())
    return list(found)


def _named(group: "h5py.Group", path: Path) -> Iterator[SourceLayer]:
    """Yields the layers in a group of Keras 3: each has `vars`, with its name as an attribute."""
    for name, member in group.items():
        if name == "vars" or name in _NO_LAYERS or not hasattr(member, "items"):
            continue
        inner = path
        if "vars" in member:
            own = member["vars"]
            if "name" in own.attrs:
                inner = (*path, str(own.attrs["name"]))
                if len(own):
                    yield _source(inner, [own[str(number)] for number in range(len(own))])
        yield from _named(member, inner)


def _legacy(file: "h5py.File") -> Iterator[SourceLayer]:
    """Yields the layers of a file of Keras 2, such as those of `keras.applications`."""
    for layer in file.attrs["layer_names"]:
        group = file[layer]
        names = list(group.attrs["weight_names"])
        if names:
            yield _source((_text(layer),), [group[name] for name in names])


def _source(path: Path, datasets: "list[h5py.Dataset]") -> SourceLayer:
    if any(dataset.external or dataset.is_virtual for dataset in datasets):
        # HDF5 would take the bytes of any file of this machine for weights.
        raise ValueError("its values lie in another file")
    shapes = tuple(tuple(dataset.shape) for dataset in datasets)
    return SourceLayer(path, shapes, lambda: [_value(dataset) for dataset in datasets])


def _value(dataset: "h5py.Dataset") -> Any:
    import ml_dtypes
    import numpy as np

    if dataset.attrs.get("dtype") == "bfloat16":
        return np.array(dataset, ml_dtypes.bfloat16).astype(np.float32)
    return np.array(dataset)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)

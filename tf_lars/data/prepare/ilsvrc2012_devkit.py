"""Development kit of ILSVRC2012: the classes, and the labels of the validation images."""

import io
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tf_lars.errors import InputError

_SYNSETS = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, LookupError, ValueError, TypeError)


class Synset(NamedTuple):
    """One class.

    Args:
        wnid: WordNet id, such as n01440764.
        words: Names, such as "tench, Tinca tinca".
        number: Number of the class in the development kit.
        num_train_images: Number of training images that the class should have.
    """

    wnid: str
    words: str
    number: int
    num_train_images: int


@dataclass(frozen=True)
class Devkit:
    """Contents of the development kit.

    Args:
        synsets: Classes sorted by WordNet id; the first has label 1.
        validation_labels: Labels of the validation images, in the order of their numbers.
    """

    synsets: tuple[Synset, ...]
    validation_labels: tuple[int, ...]


def read(path: str) -> Devkit:
    """Reads `ILSVRC2012_devkit_t12.tar.gz`.

    Raises:
        InputError: The file is damaged or something else, or SciPy is not installed.
    """
    try:
        with tarfile.open(path, "r:*") as tar:
            contents = {
                name: file.read()
                for member in tar
                for name in (_SYNSETS, _GROUND_TRUTH)
                if member.name.endswith(f"/{name}") and (file := tar.extractfile(member))
            }
        synsets = _synsets(contents[_SYNSETS])
        labels = {synset.number: label for label, synset in enumerate(synsets, start=1)}
        truth = tuple(labels[int(number)] for number in contents[_GROUND_TRUTH].split())
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"The development kit must be an archive with {_SYNSETS} and {_GROUND_TRUTH}. "
            f"Received: {path!r} ({type(error).__name__}: {error}). Download "
            "ILSVRC2012_devkit_t12.tar.gz again."
        ) from error
    return Devkit(synsets, truth)


def _synsets(meta: bytes) -> tuple[Synset, ...]:
    """Returns the classes of `meta.mat`, without the inner nodes of the WordNet tree above them."""
    rows: Sequence[Any] = _load_mat(meta)["synsets"]
    synsets = [
        Synset(
            str(row["WNID"]),
            str(row["words"]),
            int(row["ILSVRC2012_ID"]),
            int(row["num_train_images"]),
        )
        for row in rows
        if int(row["num_children"]) == 0
    ]
    if not synsets:
        raise ValueError("no classes")
    return tuple(sorted(synsets))


def _load_mat(data: bytes) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(
            "Reading the development kit's MATLAB file needs SciPy. Received: "
            f"{error}. Install the extra `imagenet`: pip install -e '.[imagenet]'."
        ) from error
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True)
    except Exception as error:  # SciPy's own errors, and any that damaged bytes cause
        raise ValueError(f"meta.mat: {error}") from error

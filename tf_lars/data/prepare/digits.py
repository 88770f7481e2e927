"""Handwritten digits of scikit-learn as a prepared data set: real images without a download.

1,797 grey images of 8x8 pixels: the test part of the optical recognition of handwritten digits
data set of the UCI machine learning repository (Alpaydin and Kaynak, 1998).
"""

import contextlib
import os
import tempfile

import numpy as np

from tf_lars import files
from tf_lars.data.held_out import held_out_mask
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.data.records.dataset_info import DATASET_FILE, DatasetInfo
from tf_lars.errors import InputError

NAME = "digits"
NUM_TRAIN = 1437
NUM_VALIDATION = 360

_MAX_VALUE = 16
# Nearly lossless: no pixel changes by more than a few grey levels.
_JPEG_QUALITY = 100


def prepare(output_dir: str | os.PathLike[str]) -> DatasetInfo:
    """Writes the digits to a folder, unless it holds them already.

    The prepared folder can be copied to machines without scikit-learn.

    Raises:
        InputError: scikit-learn is missing, or the folder holds something else.
    """
    output_dir = os.fspath(output_dir)
    if files.exists(os.path.join(output_dir, DATASET_FILE)):
        name = DatasetInfo.read(output_dir).name
        if name != NAME:
            raise InputError(
                f"The folder must be empty or hold the digits. Received: {output_dir!r} with the "
                f"data set {name!r}. Choose another folder."
            )
        # A folder with a missing shard is written again below.
        with contextlib.suppress(InputError):
            return DatasetInfo.load(output_dir)
    with tempfile.TemporaryDirectory() as folder:
        write_image_folder(folder)
        info, _ = prepare_images(PrepareConfig(folder, output_dir, name=NAME))
    return info


def write_image_folder(folder: str | os.PathLike[str]) -> None:
    """Writes `train/<digit>/<index>.jpg` and `val/<digit>/<index>.jpg`.

    The index is the image's position in scikit-learn's array; a grey level is the value times
    255/16, rounded.

    Raises:
        InputError: scikit-learn is missing.
    """
    from PIL import Image

    images, labels = _load()
    is_validation = validation_mask(labels)
    levels = np.rint(images * (255 / _MAX_VALUE)).astype(np.uint8)
    for index, (pixels, label) in enumerate(zip(levels, labels, strict=True)):
        split = "val" if is_validation[index] else "train"
        class_folder = os.path.join(folder, split, str(label))
        os.makedirs(class_folder, exist_ok=True)
        path = os.path.join(class_folder, f"{index:04d}.jpg")
        Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)


def validation_mask(labels: np.ndarray) -> np.ndarray:
    """Returns which digits are for validation: 360, the same share of one fifth in every class.

    Args:
        labels: Integers of shape [1797].

    Returns:
        Booleans of shape [1797], see `tf_lars.data.held_out`.
    """
    return held_out_mask(labels, NUM_VALIDATION)


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Returns values from 0 to 16 of shape [1797, 8, 8], and labels of shape [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            f"The digits come with scikit-learn. Received: {error}. Install the extra `demo`: "
            "pip install -e '.[demo]'."
        ) from error
    digits = load_digits()
    return digits.images, digits.target

"""Small data sets decoded once into memory, for many short runs in one process.

The pipeline of `tf_lars.data.image_input` reads and decodes each image in each epoch; a study that
trains on the same images a hundred times would spend most of its time there. Here the images are
kept as one array of squares of one size; augmentation, its keys and batches are those of the
pipeline.
"""

import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from tf_lars.data import batches, halving
from tf_lars.data.arrays import ArrayEvaluationInput
from tf_lars.data.image_input import EvaluationInput, TrainingInput

_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images and their classes in memory.

    Attributes:
      image: Images, uint8 `[examples, size, size, 3]`.
      label: Classes from 0, int32 `[examples]`.
    """

    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.image.shape[1]

    def where(self, mask: np.ndarray) -> "Images":
        """Returns the images for which a mask, bool `[examples]`, is true."""
        return Images(self.image[mask], self.label[mask])

    @functools.cached_property
    def tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and classes as tensors, which all pipelines share."""
        return tf.constant(self.image), tf.constant(self.label)


def load(data_dir: str | os.PathLike[str], split: str, size: int, crop_fraction: float) -> Images:
    """Decodes a split of a prepared data set in stored order, each image as evaluation shows it.

    Args:
      data_dir: Folder written by `launch.prepare_imagenet`.
      split: "train" or "validation".
      size: Side of the images to keep, in pixels.
      crop_fraction: Side of the centre crop over the short side of the image.

    Raises:
      InputError: The data do not exist, or a record is bad.
    """
    source = EvaluationInput(
        os.fspath(data_dir), _BATCH, image_size=size, crop_fraction=crop_fraction, split=split
    )
    decoded = source.dataset(tf.distribute.InputContext()).as_numpy_iterator()
    image = np.empty([source.num_examples, size, size, 3], np.uint8)
    label = np.empty([source.num_examples], np.int32)
    for start, batch in zip(range(0, source.num_examples, _BATCH), decoded, strict=True):
        count = int(batch["weight"].sum())
        image[start : start + count] = batch["image"][:count]
        label[start : start + count] = batch["label"][:count]
    return Images(image, label)


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentTrainingInput(TrainingInput):
    """Training batches from memory, as `TrainingInput` makes them from files.

    Batches have the key `flip` with every augmentation, so that a training step traced for one of
    them serves the others too.

    Attributes:
      images: Images to train on instead of those in `data_dir`; boxes are taken from these squares.
    """

    images: Images | None = None

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of training examples."""
        return len(self._images)

    @property
    def _images(self) -> Images:
        assert self.images is not None
        return self.images

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica, for steps `[first_step, last_step)`."""
        is_unchanged = self.augmentation == "none" and self.image_size == self._images.size
        if not is_unchanged:
            return super().dataset(context, first_step, last_step).map(_with_flip)
        image, label = self._images.tensors

        def gather(_, index):
            return _with_flip({"image": tf.gather(image, index), "label": tf.gather(label, index)})

        positions = batches.training_positions(self, context, first_step, last_step)
        return positions.gather(gather).prefetch(2)

    def _reading(self):
        image, label = self._images.tensors

        def read(index):
            return tf.gather(image, index), tf.gather(label, index), tf.ones_like(index, tf.bool)

        return read, lambda pixels, _: SquareImage(pixels)


class SquareImage:
    """An image in memory, see `tf_lars.data.decode.Image`."""

    def __init__(self, pixels: tf.Tensor):
        self._pixels = pixels

    def shape(self) -> tf.Tensor:
        """Returns int32 `[3]`: height, width, channels."""
        return tf.shape(self._pixels)

    def window(self, window: tf.Tensor, ratio: int) -> tf.Tensor:
        """Returns a part of the image, averaged as in `tf_lars.data.halving`."""
        top, left, height, width = tf.unstack(window * ratio)
        part = self._pixels[top : top + height, left : left + width]
        return halving.shrink_tensor(part, ratio)


def _with_flip(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"flip": tf.zeros_like(batch["label"], tf.bool)} | batch


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentEvaluationInput(ArrayEvaluationInput):
    """Each example of two arrays once, as the dictionaries of `tf_lars.data.image_input`."""

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; every worker has the same number."""
        return (
            super()
            .dataset(context)
            .map(lambda image, label, weight: {"image": image, "label": label, "weight": weight})
        )

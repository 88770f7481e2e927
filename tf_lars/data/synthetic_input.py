"""Input without a data set: one batch of noise, made once on each worker and repeated.

Its batches have the keys, shapes and types of those of `tf_lars.data.image_input` with the same
settings, so a training step costs the same, and the input costs nothing. They do not depend on the
step, so a resumed run sees the same images.
"""

import dataclasses
import functools

import tensorflow as tf

from tf_lars.data import batches
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.in_memory import SquareImage
from tf_lars.data.synthetic_data import IMAGENET, SyntheticData


@dataclasses.dataclass(frozen=True)
class SyntheticTrainingInput(TrainingInput):
    """Training batches of noise.

    Attributes:
      data: Numbers of images and classes; `data_dir` is not used.
    """

    data: SyntheticData = IMAGENET

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of training images."""
        return self.data.num_examples

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batch, over and over, with the sizes of `first_step`."""
        of_this_size = dataclasses.replace(
            self,
            global_batch_size=self._steps.batch_size(first_step),
            image_size=self._size(first_step),
        )
        return _repeated(TrainingInput.dataset(of_this_size, context, 0, 1))

    def _reading(self):
        size = self._size(0)

        def read(index):
            return index, _label(index, self.data), tf.ones_like(index, tf.bool)

        def open_image(_, index):
            return SquareImage(_noise([size, size, 3], tf.stack([self.seed, index])))

        return read, open_image


@dataclasses.dataclass(frozen=True)
class SyntheticEvaluationInput(EvaluationInput):
    """Each validation image once, as far as numbers go: the pixels are always those of one batch.

    Attributes:
      data: Numbers of images and classes; `data_dir` is not used.
    """

    data: SyntheticData = IMAGENET

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of validation images."""
        return self.data.num_validation_examples

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; every worker has the same number."""
        positions = batches.evaluation_positions(self, context)
        shape = [positions.batch_size, self.image_size, self.image_size, 3]

        def example(index, _):
            image = _noise(shape, tf.stack([0, index[0]]))
            return {"image": image, "label": _label(index, self.data)}

        images = _repeated(positions.gather(example))
        weights = positions.gather(lambda _, weight: {"weight": weight})
        return tf.data.Dataset.zip(images, weights).map(lambda image, weight: image | weight)


def _repeated(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the first batch over and over; the cache hands it out without a copy."""
    return dataset.take(1).cache().repeat()


def _label(index: tf.Tensor, data: SyntheticData) -> tf.Tensor:
    return tf.cast(index % data.num_classes, tf.int32)


def _noise(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Returns random pixels; `seed` is int64 `[2]`."""
    pixels = tf.random.stateless_uniform(shape, seed, maxval=256, dtype=tf.int32)
    return tf.cast(pixels, tf.uint8)

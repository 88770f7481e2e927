"""The input pipeline: from a prepared folder to uint8 batches, for training and exact evaluation.

Batches are dictionaries: `image` uint8 `[batch, size, size, 3]`, `label` int32 `[batch]` (from 0),
`weight` float32 `[batch]` in evaluation (0 marks padding), `flip` bool `[batch]` in augmented
training, and what `tf_lars.data.mixing` draws where it is on. The CPU decodes, crops and resizes;
what the device does better is left to `to_device_batch`: a flip costs nothing there, and uint8 is
a quarter of the bytes to send.

All randomness is keyed by (seed, epoch, example), so that a batch is a function of its position.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tf_lars.data import (
    KERAS_CV_AUGMENTATIONS,
    RANDAUGMENT_MAGNITUDE,
    check_augmentation,
    order,
)
from tf_lars.data.mixing import NO_MIXING, Mixing, erase, mix
from tf_lars.data.reader import open_split
from tf_lars.data.records import DatasetInfo

# Szegedy et al. 2015, with the area of MLPerf's ResNet-50.
REFERENCE_BOX = {
    "min_object_covered": 0.1,
    "aspect_ratio_range": (3 / 4, 4 / 3),
    "area_range": (0.08, 1.0),
    "max_attempts": 10,
    "use_image_if_no_bounding_boxes": True,
}


@dataclasses.dataclass(frozen=True)
class TrainingInput:
    """Training batches of a prepared data set.

    Attributes:
      data_dir: folder written by `launch.prepare_imagenet`.
      global_batch_size: examples per optimizer step over all replicas.
      image_size: side of the square images, in pixels.
      augmentation: "reference" takes a random box of 8 to 100 % of the area with an aspect ratio
        from 3/4 to 4/3, resizes it, and flips every second image (Szegedy et al. 2015, as in
        MLPerf); "randaugment" and "augmix" do what `tf_lars.data.augment` says after that; "none"
        shows each image as evaluation does.
      crop_fraction: side of the centre crop over the short side of the image, for "none".
      seed: of the order and of the augmentation.
      randaugment_magnitude: strength of the two operations of "randaugment", 0 to 10.
      mixing: MixUp, CutMix and random erasing, with any augmentation; off by default.
    """

    data_dir: str
    global_batch_size: int
    image_size: int = 224
    augmentation: str = "reference"
    crop_fraction: float = 0.875
    seed: int = 0
    randaugment_magnitude: float = RANDAUGMENT_MAGNITUDE
    mixing: Mixing = NO_MIXING

    def __post_init__(self):
        check_augmentation(self.augmentation, self.randaugment_magnitude)

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of training examples."""
        return DatasetInfo.load(self.data_dir).splits["train"].num_examples

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica, for steps `[first_step, last_step)`."""
        replica_batch = order.per_replica_batch_size(
            self.global_batch_size, context.num_replicas_in_sync
        )
        positions = order.training_positions(
            context,
            num_examples=self.num_examples,
            global_batch_size=self.global_batch_size,
            seed=self.seed,
            first_step=first_step,
            last_step=last_step,
        )
        read = _reading(self.data_dir, "train")
        policy = self._policy()
        self.mixing.check(replica_batch)

        def example(record, epoch, index):
            encoded, label = _parse(record)
            draws = self.mixing.draw(self._key(epoch, index, 3), self.image_size, self.image_size)
            if self.augmentation == "none":
                image = _centre_crop(encoded, self.image_size, self.crop_fraction)
                return {"image": image, "label": label, **draws}
            image = _random_box(encoded, self.image_size, self._key(epoch, index, 0))
            flip = tf.random.stateless_uniform([], self._key(epoch, index, 1)) < 0.5
            if policy:
                image = policy(image, self._key(epoch, index, 2))
            return {"image": image, "label": label, "flip": flip, **draws}

        return (
            positions.map(lambda epoch, index: (read(index), epoch, index), num_parallel_calls=2)
            .unbatch()
            .map(example, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(replica_batch, drop_remainder=True)
            .prefetch(2)
        )

    def _key(self, epoch, index, draw: int) -> tf.Tensor:
        """Returns a seed for one random draw of one example in one epoch: int64 `[2]`."""
        return tf.stack([(self.seed * 4 + draw) * (1 << 20) + epoch, index])

    def _policy(self):
        """Returns what comes after the random box, from (image, key) to image, or None."""
        if self.augmentation not in KERAS_CV_AUGMENTATIONS:
            return None
        from tf_lars.data import augment  # imports keras-cv

        return augment.policy(self.augmentation, self.randaugment_magnitude)


@dataclasses.dataclass(frozen=True)
class EvaluationInput:
    """Each validation example once: centre crop, no augmentation.

    Attributes:
      data_dir: folder written by `launch.prepare_imagenet`.
      global_batch_size: examples per evaluation step over all replicas.
      image_size: side of the square images, in pixels.
      crop_fraction: side of the centre crop over the short side of the image; 0.875 is the usual
        224 of 256.
    """

    data_dir: str
    global_batch_size: int
    image_size: int = 224
    crop_fraction: float = 0.875

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of validation examples."""
        return DatasetInfo.load(self.data_dir).splits["validation"].num_examples

    @property
    def steps(self) -> int:
        """Global batches that hold every example."""
        return order.evaluation_steps(self.num_examples, self.global_batch_size)

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; all workers have equally many."""
        replica_batch = order.per_replica_batch_size(
            self.global_batch_size, context.num_replicas_in_sync
        )
        positions = order.evaluation_positions(
            context,
            num_examples=self.num_examples,
            global_batch_size=self.global_batch_size,
        )
        read = _reading(self.data_dir, "validation")

        def example(record, weight):
            encoded, label = _parse(record)
            image = _centre_crop(encoded, self.image_size, self.crop_fraction)
            return {"image": image, "label": label, "weight": weight}

        return (
            positions.map(lambda index, weight: (read(index), weight), num_parallel_calls=2)
            .unbatch()
            .map(example, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(replica_batch, drop_remainder=True)
            .prefetch(2)
        )


def to_device_batch(
    batch: dict[str, tf.Tensor], num_classes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Turns a batch of this pipeline into `(x, y, sample_weight)`, on the device.

    `y` is one-hot, float32 `[batch, num_classes]`, so that labels can be smoothed and mixed.
    Flips, erases and mixes as the pipeline has drawn. Colours stay 0 to 255: normalisation is the
    first layer of the model, so that an exported model takes plain images.
    """
    image = batch["image"]
    if "flip" in batch:
        image = tf.where(batch["flip"][:, None, None, None], tf.reverse(image, [2]), image)
    target = tf.one_hot(batch["label"], num_classes)
    if "erase" in batch:
        image = erase(image, batch["erase"])
    if "paste" in batch:
        image, target = mix(image, target, batch["own"], batch["paste"])
    return image, target, batch.get("weight")


def _reading(data_dir: str, split: str):
    """Returns a function from a vector of example numbers to their records."""
    reader = open_split(data_dir, split)

    def read(index):
        return np.array(reader.read(index), dtype=object)

    def read_in_graph(index):
        records = tf.numpy_function(read, [index], tf.string, stateful=False)
        return tf.ensure_shape(records, [None])

    return read_in_graph


def _parse(record):
    features = tf.io.parse_single_example(
        record,
        {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    return features["image/encoded"], tf.cast(features["image/class/label"] - 1, tf.int32)


def _random_box(encoded, size: int, key) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=key,
        **REFERENCE_BOX,
    )
    return _crop_and_resize(encoded, begin[0], begin[1], extent[0], extent[1], size)


def _centre_crop(encoded, size: int, fraction: float) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(encoded)
    height, width = shape[0], shape[1]
    side = tf.cast(tf.round(fraction * tf.cast(tf.minimum(height, width), tf.float32)), tf.int32)
    side = tf.maximum(side, 1)
    return _crop_and_resize(encoded, (height - side) // 2, (width - side) // 2, side, side, size)


def _crop_and_resize(encoded, top, left, height, width, size: int) -> tf.Tensor:
    # Decoding the box alone saves a third of the time. INTEGER_ACCURATE costs nothing and agrees
    # with other decoders; TensorFlow's default shifts the mean by most of a grey level.
    crop = tf.image.decode_and_crop_jpeg(
        encoded, tf.stack([top, left, height, width]), channels=3, dct_method="INTEGER_ACCURATE"
    )
    resized = tf.image.resize(crop, [size, size], method="bilinear")
    image = tf.saturate_cast(tf.round(resized), tf.uint8)
    return tf.ensure_shape(image, [size, size, 3])

"""Input pipeline from a prepared folder to uint8 batches, for training and exact evaluation.

Batches are dictionaries: `image` uint8 `[batch, size, size, 3]`, `label` int32 `[batch]` (from 0),
`weight` float32 `[batch]` in evaluation (0 marks padding), `flip` bool `[batch]` in augmented
training unless flips are off, and the draws of `tf_lars.data.mixing` if it is on. The CPU decodes,
crops and resizes; `to_device_batch` does the rest, which the device does better: a flip costs
nothing there, and uint8 is a quarter of the bytes to send.

All randomness is keyed by (seed, epoch, example), so a batch is a function of its position.

A bad record, one that fails its checksum or has no decodable image, ends the run with its file and
position. Up to `max_bad_records` of a split are skipped instead: training replaces each by the next
good record, evaluation leaves it out.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tf_lars.data import batches, decode, graph_reader, order, pipeline_host
from tf_lars.data.augmentation_names import (
    CROP_PADDING,
    KERAS_CV_AUGMENTATIONS,
    PADDING_MODES,
    RANDAUGMENT_MAGNITUDE,
    check_augmentation,
    check_padding,
)
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.data.decoded_cache import open_cache
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.data.mixing import NO_MIXING, Mixing, erase, mix
from tf_lars.data.records import example_reader
from tf_lars.data.records.dataset_info import DatasetInfo


@dataclasses.dataclass(frozen=True)
class TrainingInput:
    """Training batches of a prepared data set.

    Attributes:
      data_dir: Folder written by `launch.prepare_imagenet`.
      global_batch_size: Examples per optimizer step over all replicas, or a schedule of it by
        epoch: see `tf_lars.data.order.Steps`.
      image_size: Side of the square images in pixels, or a schedule of it by epoch; the batch in
        which one epoch ends and the next begins still has the size of the first.
      augmentation: "reference" takes a random box of 8 to 100 % of the area with an aspect ratio
        from 3/4 to 4/3, resizes it, and flips it with probability 1/2 (Szegedy et al. 2015, as in
        MLPerf); "randaugment" and "augmix" then apply the operations of `tf_lars.data.augment`;
        "pad_crop" pads the image that evaluation shows, takes a random crop of the same size and
        flips it likewise (He et al. 2016, section 4.2, for CIFAR); "none" shows each image as
        evaluation does.
      crop_fraction: For "none" and "pad_crop", side of the centre crop over the short side of the
        image.
      seed: Seed of the order and of the augmentation.
      max_bad_records: Number of bad records that each worker may skip.
      randaugment_magnitude: Strength of the two operations of "randaugment", 0 to 10.
      mixing: MixUp, CutMix and random erasing, with any augmentation; off by default.
      cache: Whether to keep decoded images in memory, see `tf_lars.data.decoded_cache`.
      flip: Whether augmentation mirrors half of the images; not for digits and characters.
      crop_padding: Padding of "pad_crop" on each side, as a share of the image's side, 0 to 0.5;
        rounded to whole pixels.
      crop_padding_mode: "reflect" or "zeros".
    """

    data_dir: str
    global_batch_size: int | BatchSizeSchedule
    image_size: int | ImageSizeSchedule = 224
    augmentation: str = "reference"
    crop_fraction: float = 0.875
    seed: int = 0
    max_bad_records: int = 0
    randaugment_magnitude: float = RANDAUGMENT_MAGNITUDE
    mixing: Mixing = NO_MIXING
    cache: bool = False
    flip: bool = True
    crop_padding: float = CROP_PADDING
    crop_padding_mode: str = PADDING_MODES[0]

    def __post_init__(self):
        check_augmentation(self.augmentation, self.randaugment_magnitude)
        check_padding(self.crop_padding, self.crop_padding_mode)

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of training examples."""
        return DatasetInfo.load(self.data_dir).splits["train"].num_examples

    @functools.cached_property
    def _steps(self) -> order.Steps:
        return order.Steps.of(self.num_examples, self.global_batch_size)

    @property
    def shape_changes(self) -> tuple[int, ...]:
        """Steps before which the size of the images or of the batches changes."""
        return tuple(sorted({*self._size_changes, *self._steps.changes}))

    @property
    def _size_changes(self) -> tuple[int, ...]:
        if isinstance(self.image_size, int):
            return ()
        epochs = [epoch for epoch, _ in self.image_size.starts[1:]]
        ends = self._steps.epoch_ends(max([0, *epochs]))
        return tuple(ends[epoch - 1] for epoch in epochs)

    def _size(self, step: int) -> int:
        if isinstance(self.image_size, int):
            return self.image_size
        changes = sum(change <= step for change in self._size_changes)
        return self.image_size.starts[changes][1]

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica, for steps `[first_step, last_step)`.

        All of them have the image size and the batch size of `first_step`.
        """
        image_size = self._size(first_step)
        positions = batches.training_positions(self, context, first_step, last_step)
        read, open_image = self._reading()
        policy = self._policy()
        self.mixing.check(positions.batch_size)

        def records(epoch, index):
            encoded, label, _ = read(index)
            return encoded, label, epoch, index

        def example(encoded, label, epoch, index):
            image = open_image(encoded, index)
            draws = self.mixing.draw(self._key(epoch, index, 3), image_size, image_size)
            where = self._key(epoch, index, 0)
            if self.augmentation in ("none", "pad_crop"):
                image = decode.centre_crop(image, image_size, self.crop_fraction)
            else:
                image = decode.random_box(image, image_size, where)
            if self.augmentation == "pad_crop":
                padding = round(self.crop_padding * image_size)
                image = decode.shifted(image, padding, self.crop_padding_mode, where)
            if policy:
                image = policy(image, self._key(epoch, index, 2))
            if self.flip and self.augmentation != "none":
                flip = tf.random.stateless_uniform([], self._key(epoch, index, 1)) < 0.5
                draws = {"flip": flip} | draws
            return {"image": image, "label": label, **draws}

        return positions.read(records, example)

    def _reading(self):
        """Returns functions that read and open examples, as the module's `_reading` does."""
        return _reading(self.data_dir, "train", self.max_bad_records, self.cache)

    def _key(self, epoch, index, draw: int) -> tf.Tensor:
        """Returns a seed for one random draw of one example in one epoch: int64 `[2]`."""
        return tf.stack([(self.seed * 4 + draw) * (1 << 20) + epoch, index])

    def _policy(self):
        """Returns the augmentation after the random box, from (image, key) to image, or None."""
        if self.augmentation not in KERAS_CV_AUGMENTATIONS:
            return None
        from tf_lars.data import augment  # imports keras-cv

        return augment.policy(self.augmentation, self.randaugment_magnitude)


@dataclasses.dataclass(frozen=True)
class EvaluationInput:
    """Each example of a split once, in stored order: centre crop, no augmentation.

    Attributes:
      data_dir: Folder written by `launch.prepare_imagenet`.
      global_batch_size: Examples per evaluation step over all replicas.
      image_size: Side of the square images in pixels.
      crop_fraction: Side of the centre crop over the short side of the image; 0.875 is the usual
        224 of 256.
      max_bad_records: Number of bad records that each worker may skip.
      cache: Whether to keep decoded images in memory, see `tf_lars.data.decoded_cache`.
      split: "validation" or "train".
    """

    data_dir: str
    global_batch_size: int
    image_size: int = 224
    crop_fraction: float = 0.875
    max_bad_records: int = 0
    cache: bool = False
    split: str = "validation"

    @functools.cached_property
    def num_examples(self) -> int:
        """Number of examples of the split."""
        return DatasetInfo.load(self.data_dir).splits[self.split].num_examples

    @property
    def steps(self) -> int:
        """Number of global batches that hold every example."""
        return order.evaluation_steps(self.num_examples, self.global_batch_size)

    def dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica; every worker has the same number."""
        positions = batches.evaluation_positions(self, context)
        read, open_image = _reading(self.data_dir, self.split, self.max_bad_records, self.cache)

        def records(index, weight):
            encoded, label, own = read(index)
            return encoded, label, index, weight * tf.cast(own, tf.float32)

        def example(encoded, label, index, weight):
            image = open_image(encoded, index)
            image = decode.centre_crop(image, self.image_size, self.crop_fraction)
            return {"image": image, "label": label, "weight": weight}

        return positions.read(records, example)


def to_device_batch(
    batch: dict[str, tf.Tensor], num_classes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Turns a batch of this pipeline into `(x, y, sample_weight)`, on the device.

    `y` is one-hot, float32 `[batch, num_classes]`, so that labels can be smoothed and mixed.
    Flips, erases and mixes as drawn by the pipeline. Colours stay 0 to 255: normalisation is the
    first layer of the model, so an exported model takes plain images. They are float32, so that
    arithmetic in the model does not wrap around at 256.
    """
    image = batch["image"]
    if "flip" in batch:
        image = tf.where(batch["flip"][:, None, None, None], tf.reverse(image, [2]), image)
    target = tf.one_hot(batch["label"], num_classes)
    if "erase" in batch:
        image = erase(image, batch["erase"])
    if "paste" in batch:
        image, target = mix(image, target, batch["own"], batch["paste"])
    return tf.cast(image, tf.float32), target, batch.get("weight")


def _reading(data_dir: str, split: str, max_bad_records: int, cache: bool):
    """Returns functions that read and open the examples of a split in TensorFlow's graph.

    Returns:
      A function from a vector of example numbers to the JPEG files, the classes (from 0) and
      whether each example is the requested one rather than a replacement; and a function from a
      file and its number to the `decode.Image`.

    Raises:
      InputError: The data is unusable; or another host reads it, and images are to be cached or
        records skipped.
    """
    if cache:
        pipeline_host.refuse_remote("--cache", "Leave it out.")
    if max_bad_records:
        pipeline_host.refuse_remote(
            f"--max_bad_records={max_bad_records}", "Leave it out, and prepare bad records again."
        )
    if pipeline_host.is_remote():
        return graph_reader.open_split(data_dir, split), lambda encoded, _: decode.Jpeg(encoded)
    examples = example_reader.open_split(data_dir, split, max_bad_records)
    label_base = DatasetInfo.read(data_dir).label_base
    decoded = open_cache(examples) if cache else None

    def read(index):
        encoded, labels, own = examples.read(index)
        classes = np.array(labels, np.int32) - np.int32(label_base)
        return np.array(encoded, dtype=object), classes, np.array(own)

    def read_in_graph(index):
        types = [tf.string, tf.int32, tf.bool]
        vectors = tf.numpy_function(read, [index], types, stateful=False)
        return tuple(tf.ensure_shape(vector, [None]) for vector in vectors)

    def open_image(encoded, index):
        return decode.Jpeg(encoded) if decoded is None else decoded.image(index, encoded)

    return read_in_graph, open_image

"""Decoded images in memory: decoding takes most of the pipeline's time, and small sets fit.

An image is decoded when it is first met and kept whole, so that each epoch crops it anew.
It pays for photos of full size: 1.46 ms of CPU time per ImageNet photo of 110 KB become 0.79 at
224 pixels, and 1.02 become 0.80 at 64. It does not for small files: 0.57 ms become 0.66 for those
of imagenette (10 KB) at 224 pixels, and 0.27 become 0.42 at 64, where the decoder itself scales.
"""

import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_lars import machine
from tf_lars.data.decode import decode
from tf_lars.data.records import jpeg_markers
from tf_lars.data.records.example_reader import ExampleReader
from tf_lars.errors import InputError

SHARE_OF_MEMORY = 0.8
"""Of the memory that is available when training begins, what the images of a split may take."""

_SAMPLE = 64
_NOT_THERE = np.zeros(3, np.int32)


class DecodedImages:
    """The decoded images of a split, by number, shared by all pipelines of a process."""

    def __init__(self):
        self._images: dict[int, np.ndarray] = {}

    def image(self, index: tf.Tensor, encoded: tf.Tensor) -> "CachedImage":
        """Returns an image, decoded now or before.

        Args:
          index: its number, scalar int64.
          encoded: its JPEG file, scalar string.
        """

        def look(index):
            image = self._images.get(int(index))
            return _NOT_THERE if image is None else np.array(image.shape, np.int32)

        def put(index, image):
            self._images[int(index)] = image
            return np.array(image.shape, np.int32)

        shape = tf.ensure_shape(tf.numpy_function(look, [index], tf.int32), [3])
        shape = tf.cond(
            shape[0] > 0,
            lambda: shape,
            lambda: tf.ensure_shape(
                tf.numpy_function(put, [index, decode(encoded)], tf.int32), [3]
            ),
        )
        return CachedImage(self._images, index, shape)


class CachedImage:
    """A decoded image, see `tf_lars.data.decode.Image`; only the part asked for is copied."""

    def __init__(self, images: Mapping[int, np.ndarray], index: tf.Tensor, shape: tf.Tensor):
        self._images = images
        self._index = index
        self._shape = shape

    def shape(self) -> tf.Tensor:
        """Returns int32 `[3]`: height, width, channels."""
        return self._shape

    def window(self, window: tf.Tensor, ratio: int) -> tf.Tensor:
        """Returns a part of the image, the mean over squares of `ratio` x `ratio` pixels."""

        def part(index, window):
            top, left, height, width = window * ratio
            pixels = self._images[int(index)][top : top + height, left : left + width]
            for _ in range(ratio.bit_length() - 1):
                pairs = pixels[0::2].astype(np.uint16) + pixels[1::2]
                pixels = ((pairs[:, 0::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)
            return pixels

        with tf.control_dependencies([self._shape]):  # it is there by then
            pixels = tf.numpy_function(part, [self._index, window], tf.uint8)
        return tf.ensure_shape(pixels, [None, None, 3])


@functools.lru_cache(maxsize=8)
def open_cache(reader: ExampleReader) -> DecodedImages:
    """Returns the cache of a split, one and the same for the same reader.

    Raises:
      InputError: the decoded images would take more than `SHARE_OF_MEMORY` of the memory that is
        available.
    """
    needed, available = _decoded_bytes(reader), machine.available_memory_bytes()
    if needed > SHARE_OF_MEMORY * available:
        raise InputError(
            f"Decoded images are kept in at most {SHARE_OF_MEMORY:.0%} of the available memory. "
            f"Received: {len(reader):,} images of about {needed / 2**30:,.1f} GiB, with "
            f"{available / 2**30:,.1f} GiB available. Leave out --cache, or prepare the data with "
            "--short_side=256."
        )
    return DecodedImages()


def _decoded_bytes(reader: ExampleReader) -> float:
    """Estimates the size of all images from the headers of some."""
    sample = np.linspace(0, len(reader) - 1, min(_SAMPLE, len(reader))).astype(int)
    images, *_ = reader.read(sample)
    headers = [jpeg_markers.read_header(image) for image in images]
    return len(reader) * float(np.mean([3 * h.width * h.height for h in headers if h]))

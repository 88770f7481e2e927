"""Averages of squares of pixels, for images in memory that are shown at 1/2 or 1/4 of their size.

Both sides are halved once or twice. Each halving replaces 2 x 2 pixels by their mean, rounded half
up to uint8. NumPy and TensorFlow give the same pixels, and each is the faster one on its own data.
"""

import numpy as np
import tensorflow as tf


def shrink_array(pixels: np.ndarray, ratio: int) -> np.ndarray:
    """Returns uint8 `[height, width, 3]` at 1/`ratio` of its size, which divides both sides.

    Args:
      pixels: Image, or a part of one.
      ratio: 1, 2 or 4.
    """
    for _ in range(_halvings(ratio)):
        rows = pixels[0::2].astype(np.uint16) + pixels[1::2]
        pixels = ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
    return pixels


def shrink_tensor(pixels: tf.Tensor, ratio: int) -> tf.Tensor:
    """Returns the same as `shrink_array`, in TensorFlow's graph."""
    for _ in range(_halvings(ratio)):
        shape = tf.shape(pixels)
        height, width = shape[0] // 2, shape[1] // 2
        # TensorFlow has no fast slices with a stride.
        rows = tf.reshape(tf.cast(pixels, tf.float32), [height, 2, width * 6])
        pairs = tf.reshape(rows[:, 0] + rows[:, 1], [height, width, 2, 3])
        pixels = tf.cast((tf.reduce_sum(pairs, 2) + 2) / 4, tf.uint8)
    return pixels


def _halvings(ratio: int) -> int:
    return ratio.bit_length() - 1

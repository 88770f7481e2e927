"""Input pipelines without TensorFlow's tuner, whose iterators can be released immediately."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def without_autotune(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """Returns the dataset with the tuner switched off, here and in every dataset built on it.

    The tuner sleeps for about as long as its iterator has run, at most a minute, and in TensorFlow
    2.21 releasing an iterator may have to wait until the tuner wakes: every evaluation and every
    run would end late. Without it, `tf.data.AUTOTUNE` stands for a fixed number.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)

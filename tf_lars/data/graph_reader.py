"""Reads the examples of a split by number with TensorFlow's operations alone, on any host.

It is for hosts that another process drives, see `tf_lars.data.pipeline_host`; elsewhere
`tf_lars.data.records.example_reader`, which checks more, reads the same examples. Here TensorFlow
compares each record with its checksum, and here the label is compared with the classes; a fault
ends the run without the name of the file. An image that was cut short before its record was written
may pass: `python -m launch.prepare_imagenet --verify` finds such records.
"""

import os
import re
from collections.abc import Callable

import tensorflow as tf

from tf_lars.data.autotune import without_autotune
from tf_lars.data.records import example_reader
from tf_lars.data.records.dataset_info import DatasetInfo
from tf_lars.errors import InputError

_PARALLEL_READS = 16
"""Records of a chunk that are read at a time: a mounted bucket answers late, but many at a time."""

_Vectors = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def open_split(data_dir: str, split: str) -> Callable[[tf.Tensor], _Vectors]:
    """Returns a function that reads the examples of a split.

    Must be called where the pipeline is made: the positions of all records, 8 bytes each, go to the
    host of the pipeline. It opens each shard at the path that this process has found.

    Args:
      data_dir: Folder with a `dataset.json`.
      split: "train" or "validation".

    Returns:
      A function from a vector of example numbers to the JPEG files, the classes (from 0) and, for
      each example, True, because none is replaced by another.

    Raises:
      InputError: A shard is compressed as a whole; or any error of `example_reader.open_split`.
    """
    records = example_reader.open_split(data_dir, split).records
    info = DatasetInfo.read(data_dir)
    form, labels = info.record_format, info.labels
    starts = tf.constant(records.starts())
    first = tf.constant(records.first)
    paths = tf.constant([os.path.abspath(path) for path in records.paths])
    features = {
        form.encoded: tf.io.FixedLenFeature([], tf.string),
        form.label: tf.io.FixedLenFeature([], tf.int64),
    }

    def read(index: tf.Tensor) -> _Vectors:
        shard = tf.searchsorted(first, index, side="right") - 1
        places = tf.gather(paths, shard), tf.gather(starts, index)
        serialized = (
            without_autotune(tf.data.Dataset.from_tensor_slices(places))
            .map(_record, num_parallel_calls=_PARALLEL_READS)
            .batch(tf.size(index, tf.int64))
            .get_single_element()
        )
        parsed = tf.io.parse_example(serialized, features)
        label = parsed[form.label]
        valid = (label >= labels.start) & (label < labels.stop)
        check = tf.debugging.Assert(
            tf.reduce_all(valid),
            [
                f"InputError: Every label must be from {labels[0]} to {labels[-1]}. Received:",
                tf.boolean_mask(label, ~valid),
                f"in the {split} split of {data_dir}. Prepare it again.",
            ],
        )
        with tf.control_dependencies([check]):
            classes = tf.cast(label - labels.start, tf.int32)
        return parsed[form.encoded], classes, tf.ones_like(classes, tf.bool)

    return read


def fault(message: str) -> InputError | None:
    """Returns the error for a file that TensorFlow could not read, or None.

    Args:
      message: Message of TensorFlow's error.
    """
    if missing := re.search(r"(/[^:;]+); No such file or directory", message):
        return InputError(
            "Every host must find the data set at the same path. Received: a host without "
            f"{missing[1]}. Mount or copy it there."
        )
    if damaged := re.search(r"(corrupted|truncated) record at \d+", message):
        return InputError(
            f"Every record must match its checksum. Received: a {damaged[0]} bytes of a shard. "
            "Find it with python -m launch.prepare_imagenet --verify, then copy the file again."
        )
    return None


def _record(path: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Returns the record that begins at a byte of a file, or fails if its checksum is another."""
    rest = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=0,  # read no more than the record
        byte_offsets=start[None],
    )
    records = tf.data.experimental.from_variant(rest, tf.TensorSpec([], tf.string))
    return records.take(1).get_single_element()

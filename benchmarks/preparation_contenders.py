"""Two converters from image files to a TFRecord shard, as tasks for the process pool."""

import dataclasses
import os
import pathlib
import time
from typing import Any

from tf_lars.data.prepare.shard_writer import ShardTask, write_task


@dataclasses.dataclass(frozen=True)
class Measured:
    """A task to be timed; its shard is removed afterwards.

    Attributes:
        name: Name of the contender.
        task: A `ShardTask` for tf_lars, or a `FullDecodeTask`.
    """

    name: str
    task: Any


@dataclasses.dataclass(frozen=True)
class FullDecodeTask:
    """Image files, their label and the path of their shard."""

    paths: tuple[str, ...]
    label: int
    shard: str


@dataclasses.dataclass(frozen=True)
class Timing:
    """Cost of a task; its times are in seconds, on a clock that all processes share."""

    name: str
    images: int
    process: int
    begin: float
    end: float
    cpu: float
    num_bytes: int


def timed(measured: Measured, advance) -> Timing:
    """Runs and times a task in a worker process; CPU time is that of all its threads."""
    task = measured.task
    cpu, begin = time.process_time(), time.monotonic()
    if isinstance(task, ShardTask):
        write_task(task, advance)
        images, shard = len(task.shard.files), os.path.join(task.output.path, task.shard.name)
    else:
        full_decode_shard(task)
        images, shard = len(task.paths), task.shard
    end, cpu = time.monotonic(), time.process_time() - cpu
    num_bytes = os.path.getsize(shard)
    os.remove(shard)
    return Timing(measured.name, images, os.getpid(), begin, end, cpu, num_bytes)


def full_decode_shard(task: FullDecodeTask) -> None:
    """Writes a shard, decoding every image to find its height and width.

    Follows the steps of tools/datasets/imagenet_to_gcs.py in tensorflow/tpu.
    """
    import tensorflow as tf

    def of_bytes(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(task.shard) as writer:
        for path in task.paths:
            with tf.io.gfile.GFile(path, "rb") as file:
                encoded = file.read()
            height, width, channels = tf.io.decode_jpeg(encoded, channels=3).shape
            synset = pathlib.Path(path).parent.name.encode()
            features = {
                "image/height": of_int(height),
                "image/width": of_int(width),
                "image/colorspace": of_bytes(b"RGB"),
                "image/channels": of_int(channels),
                "image/class/label": of_int(task.label),
                "image/class/synset": of_bytes(synset),
                "image/format": of_bytes(b"JPEG"),
                "image/filename": of_bytes(os.path.basename(path).encode()),
                "image/encoded": of_bytes(encoded),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())

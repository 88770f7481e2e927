"""Records as `tf.train.Example`: writing, parsing, and checks that training can use them.

TensorFlow notices many faults of an example late or never: a truncated JPEG decodes if the crop
ends before the damage, and a label out of range becomes a row of zeros. What it does notice, such
as a damaged table in a JPEG, ends the pipeline without the name of the file. So each example is
checked before it enters the pipeline.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_lars.data.records import jpeg_markers
from tf_lars.errors import InputError


class RecordFormat(NamedTuple):
    """Names of the features of a `tf.train.Example` that hold the JPEG file and the label."""

    encoded: str
    label: str


FORMATS: Mapping[str, RecordFormat] = {
    # tensorflow/tpu tools/datasets/imagenet_to_gcs.py, and launch.prepare_imagenet.
    "standard": RecordFormat("image/encoded", "image/class/label"),
    # tensorflow/datasets image_classification/imagenet.py
    "tfds": RecordFormat("image", "label"),
}

MOST_PIXELS = 178_956_970
"""Number of pixels above which TensorFlow refuses a colour image: three per pixel make 2^29 bytes.
Pillow's limit, twice its `MAX_IMAGE_PIXELS`, is the same.

A file of a few kilobytes can claim that many, and takes gigabytes of memory to decode.
"""


class Example(NamedTuple):
    """An encoded image, its label as stored, and all features of the record."""

    encoded: bytes
    label: int
    features: Mapping[str, Any]


class BadRecord(ValueError):
    """A record that training cannot use; the message is the reason in a few words."""


def parse_example(record: bytes, form: RecordFormat) -> Example:
    """Returns the image and the label of a record.

    Raises:
      BadRecord: The record is not a `tf.train.Example`, or lacks one of the two.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise BadRecord("not a tf.train.Example") from error
    # A feature that is missing or of another type has no values here.
    encoded = features[form.encoded].bytes_list.value
    labels = features[form.label].int64_list.value
    for name, values in ((form.encoded, encoded), (form.label, labels)):
        if len(values) != 1:
            raise BadRecord(f"not exactly one {name}")
    return Example(encoded[0], labels[0], features)


def check_example(example: Example, labels: range) -> None:
    """Checks that training can use an example.

    Args:
      example: Result of `parse_example`.
      labels: Valid labels, as stored.

    Raises:
      BadRecord: Training cannot decode the image to its end, or the label is not among `labels`.
    """
    if example.label not in labels:
        raise BadRecord(f"label {example.label}, not from {labels[0]} to {labels[-1]}")
    check_image(example.encoded)


def check_image(encoded: bytes) -> None:
    """Checks that a JPEG file decodes, whichever part of it is read at whichever scale.

    Raises:
      BadRecord: The image is not a JPEG, is of a kind that `tf.image.decode_and_crop_jpeg` rejects,
        is too large or cut short, or cannot be decoded.
    """
    if not encoded.startswith(b"\xff\xd8"):
        raise BadRecord("not a JPEG" if encoded else "an empty image")
    header = jpeg_markers.read_header(encoded)
    if header is None:
        raise BadRecord("a JPEG without a header")
    if not header.is_common:
        raise BadRecord(f"a JPEG of {header.channels} channels, frame type {header.frame:#x}")
    if header.width * header.height > MOST_PIXELS:
        raise BadRecord(f"a JPEG of {header.width} x {header.height} pixels, above {MOST_PIXELS:,}")
    if jpeg_markers.is_plain(encoded):
        return
    if jpeg_markers.is_cut_short(encoded):
        raise BadRecord("a JPEG that is cut short or damaged")
    if not decodes(encoded):
        raise BadRecord("a JPEG that cannot be decoded")


def decodes(encoded: bytes) -> bool:
    """Returns whether TensorFlow decodes a JPEG file, as training does.

    At 1/8 of its size, the decoder still reads every coefficient of every channel.
    """
    import tensorflow as tf

    try:
        tf.io.decode_jpeg(encoded, channels=3, ratio=8)
    except tf.errors.InvalidArgumentError:
        return False
    return True


_COLORSPACES = {1: b"Grayscale", 3: b"RGB"}


def example_bytes(
    *,
    encoded: bytes,
    label: int,
    synset: str,
    text: str,
    filename: str,
    height: int,
    width: int,
    channels: int,
) -> bytes:
    """Returns a serialized `tf.train.Example` in the schema of ImageNet's standard TFRecords.

    The bytes depend on the arguments only: features are sorted by name. Names that come from
    folders and files need not be UTF-8.

    Args:
      encoded: JPEG file.
      label: Class, counted from 1 (0 is the background class of older models).
      synset: Identifier of the class.
      text: Name of the class.
      filename: Name of the image file without its folder.
      height: Height in pixels.
      width: Width in pixels.
      channels: 1 (grey) or 3 (colour).

    Raises:
      InputError: `label` is below 1.
    """
    import tensorflow as tf

    if label < 1:
        raise InputError(f"Labels in the records count from 1. Received: {label}. Add one.")
    example = tf.train.Example()
    # Filled in place: constructors copy the messages passed to them, image included, and make the
    # whole preparation 20 % slower.
    feature = example.features.feature
    for name, content in (
        ("image/encoded", encoded),
        ("image/format", b"JPEG"),
        ("image/class/synset", os.fsencode(synset)),
        ("image/class/text", os.fsencode(text)),
        ("image/filename", os.fsencode(filename)),
        ("image/colorspace", _COLORSPACES[channels]),
    ):
        feature[name].bytes_list.value.append(content)
    for name, number in (
        ("image/class/label", label),
        ("image/height", height),
        ("image/width", width),
        ("image/channels", channels),
    ):
        feature[name].int64_list.value.append(number)
    return example.SerializeToString(deterministic=True)

"""What a record must hold for training: a JPEG that the fused decoder takes, and a label in range.

TensorFlow notices much of what can be wrong with an example late or never: a truncated JPEG
decodes when the crop ends before the damage, and a label out of range becomes a row of zeros.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_lars.data.records import jpeg_markers
from tf_lars.errors import InputError


class RecordFormat(NamedTuple):
    """The features of a `tf.train.Example` that hold the JPEG file and the label."""

    encoded: str
    label: str


FORMATS: Mapping[str, RecordFormat] = {
    # tensorflow/tpu tools/datasets/imagenet_to_gcs.py, and launch.prepare_imagenet.
    "standard": RecordFormat("image/encoded", "image/class/label"),
    # tensorflow/datasets image_classification/imagenet.py
    "tfds": RecordFormat("image", "label"),
}


class Example(NamedTuple):
    """An encoded image, its label as it is stored, and its features."""

    encoded: bytes
    label: int
    features: Mapping[str, Any]


class BadRecord(ValueError):
    """A record that cannot be trained on; the message is the reason in a few words."""


def parse_example(record: bytes, form: RecordFormat) -> Example:
    """Returns the image and the label of a record.

    Raises:
      BadRecord: it is no `tf.train.Example`, or lacks one of the two.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise BadRecord("no tf.train.Example") from error
    # A feature that is absent or of another kind has no values here.
    encoded = features[form.encoded].bytes_list.value
    labels = features[form.label].int64_list.value
    for name, values in ((form.encoded, encoded), (form.label, labels)):
        if len(values) != 1:
            raise BadRecord(f"not exactly one {name}")
    return Example(encoded[0], labels[0], features)


def check_example(example: Example, labels: range) -> None:
    """Looks at one example.

    Args:
      example: what `parse_example` returns.
      labels: the labels that there are, as they are stored.

    Raises:
      BadRecord: the image is none that training can decode to its end, or the label is not among
        `labels`.
    """
    if example.label not in labels:
        raise BadRecord(f"label {example.label}, not from {labels[0]} to {labels[-1]}")
    check_image(example.encoded)


def check_image(encoded: bytes) -> None:
    """Looks at the markers of a JPEG file.

    Raises:
      BadRecord: no JPEG, one of a kind that `tf.image.decode_and_crop_jpeg` refuses, or one that
        stops before its end.
    """
    header = jpeg_markers.read_header(encoded)
    if header is None:
        raise BadRecord("no JPEG" if encoded else "an empty image")
    if not header.is_common:
        raise BadRecord(f"a JPEG of {header.channels} channels, frame type {header.frame:#x}")
    if jpeg_markers.is_cut_short(encoded):
        raise BadRecord("a JPEG that is cut short")


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
    """One serialized `tf.train.Example` in the schema of ImageNet's standard TFRecords.

    The bytes depend on the arguments alone (the features are sorted by name).
    Names that come from folders and files need not be UTF-8.

    Args:
        encoded: The JPEG file.
        label: Class, counted from 1 (0 is the background class of older models).
        synset: Identifier of the class.
        text: Name of the class.
        filename: Name of the image file without its folder.
        height: Pixels.
        width: Pixels.
        channels: 1 (grey) or 3 (colour).

    Raises:
        InputError: `label` is below 1.
    """
    if label < 1:
        raise InputError(f"Labels in the records count from 1. Received: {label}. Add one.")
    features = {
        "image/encoded": _bytes_feature(encoded),
        "image/format": _bytes_feature(b"JPEG"),
        "image/class/label": _int_feature(label),
        "image/class/synset": _bytes_feature(os.fsencode(synset)),
        "image/class/text": _bytes_feature(os.fsencode(text)),
        "image/filename": _bytes_feature(os.fsencode(filename)),
        "image/height": _int_feature(height),
        "image/width": _int_feature(width),
        "image/colorspace": _bytes_feature(_COLORSPACES[channels]),
        "image/channels": _int_feature(channels),
    }
    entries: list[bytes] = []
    for name, feature in sorted(features.items()):
        entries += _field(1, _field(1, [name.encode()]) + _field(2, feature))
    return b"".join(_field(1, entries))


def _bytes_feature(value: bytes) -> list[bytes]:
    return _field(1, _field(1, [value]))


def _int_feature(value: int) -> list[bytes]:
    return _field(3, _field(1, [_varint(value)]))


def _field(number: int, parts: list[bytes]) -> list[bytes]:
    """A field of bytes, or a message, in front of whose parts go its number and length."""
    return [bytes([number << 3 | 2]), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

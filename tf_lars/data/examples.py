"""What a record must hold for training: a JPEG that the fused decoder takes, and a label in range.

TensorFlow notices much of what can be wrong with an example late or never: a truncated JPEG
decodes when the crop ends before the damage, and a label out of range becomes a row of zeros.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_lars.data import jpeg_structure


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


def parse(record: bytes, form: RecordFormat) -> Example:
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


def check(example: Example, labels: range) -> None:
    """Looks at one example.

    Args:
      example: what `parse` returns.
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
    header = jpeg_structure.read_header(encoded)
    if header is None:
        raise BadRecord("no JPEG" if encoded else "an empty image")
    if not header.is_common:
        raise BadRecord(f"a JPEG of {header.channels} channels, frame type {header.frame:#x}")
    if jpeg_structure.is_cut_short(encoded):
        raise BadRecord("a JPEG that is cut short")

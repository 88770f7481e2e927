"""Shards written by other programs, read in place."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.prepare import verify
from tf_lars.data.prepare.describe import describe, is_undescribed
from tf_lars.data.records.dataset_info import SPLITS
from tf_lars.data.records.example import example_bytes
from tf_lars.errors import InputError

CLASSES, EXAMPLES = 4, 12


def _image(seed, kind="JPEG"):
    """Returns a picture whose colour shows its class."""
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (60 * (seed % CLASSES), 0, 0)).save(file, kind)
    return file.getvalue()


def write_gcs(folder, label_base=1, labels=None, below=True, shards=3, bad=None):
    """Writes shards like those of tensorflow/tpu's imagenet_to_gcs.py."""
    for split in SPLITS:
        place = folder / split if below else folder
        place.mkdir(parents=True, exist_ok=True)
        for number in range(shards):
            name = f"{split}-{number:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(str(place / name)) as writer:
                for seed in range(number, EXAMPLES, shards):
                    label = seed % CLASSES + label_base if labels is None else labels[seed]
                    image = bad if bad and seed == 5 and split == "train" else _image(seed)
                    writer.write(
                        example_bytes(
                            encoded=image,
                            label=1,
                            synset=f"n{seed % CLASSES:08d}",
                            text=f"kind {seed % CLASSES}",
                            filename="",
                            height=20,
                            width=20,
                            channels=3,
                        ).replace(
                            _int_feature("image/class/label", 1),
                            _int_feature("image/class/label", label),
                        )
                    )
    return str(folder)


def _int_feature(name, value):
    """Returns the bytes, within an example, of a feature with one integer below 128."""
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Features(feature={name: feature}).SerializeToString()


def _labels_by_colour(data_dir):
    """Returns the pairs of a label in training and the class that the picture itself shows."""
    context = tf.distribute.InputContext(1, 0, 1)
    seen = set()
    training = TrainingInput(data_dir, EXAMPLES, 8).dataset(context, 0, 1)
    for batch in (training, EvaluationInput(data_dir, EXAMPLES, 8).dataset(context)):
        (batch,) = batch.as_numpy_iterator()
        reds = np.round(batch["image"][:, 4, 4, 0] / 60).astype(int)
        seen |= set(zip(batch["label"].tolist(), reds.tolist(), strict=True))
    return seen


RIGHT = {(i, i) for i in range(CLASSES)}


@pytest.mark.parametrize("below", [True, False])
def test_a_folder_of_imagenet_to_gcs_trains_with_labels_from_1(tmp_path, below):
    folder = write_gcs(tmp_path, below=below)
    assert is_undescribed(folder)
    info = describe(folder, num_processes=1)
    assert not is_undescribed(folder)
    assert (info.label_base, info.form) == (1, "standard")
    assert info.class_names == tuple(f"kind {i}" for i in range(CLASSES))
    assert info.synsets == tuple(f"n{i:08d}" for i in range(CLASSES))
    assert [info.splits[split].num_examples for split in SPLITS] == [EXAMPLES] * 2
    assert _labels_by_colour(folder) == RIGHT
    verify.verify(folder)


def test_labels_from_0_in_the_same_schema_are_recognised(tmp_path):
    folder = write_gcs(tmp_path, label_base=0)
    assert describe(folder, num_processes=1).label_base == 0
    assert _labels_by_colour(folder) == RIGHT


def test_files_of_tensorflow_datasets_train_with_labels_from_0(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=[f"kind_{i}" for i in range(CLASSES)]),
            "file_name": tfds.features.Text(),
        }
    )

    def dataset():
        for seed in range(EXAMPLES):
            colours = np.full((20, 20, 3), (60 * (seed % CLASSES), 0, 0), np.uint8)
            yield {"image": colours, "label": seed % CLASSES, "file_name": f"{seed}.JPEG"}

    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012",
        version="5.1.0",
        features=features,
        data_dir=str(tmp_path),
        split_datasets={
            split: tf.data.Dataset.from_generator(
                dataset, output_signature=features.get_tensor_spec()
            )
            for split in SPLITS
        },
    )
    folder = str(builder.data_path)
    info = describe(folder, num_processes=1)
    assert (info.label_base, info.form, info.name) == (0, "tfds", "imagenet2012")
    assert info.class_names == tuple(f"kind_{i}" for i in range(CLASSES))
    assert _labels_by_colour(folder) == RIGHT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3}, "from 1 to 3, for 3 classes.*labels from 1 to 4"),
        ({"label_base": 0, "num_classes": 4}, "from 0 to 3.*labels from 1 to 4"),
        ({"label_base": 0}, "without 1 of those below, the first 0. Give num_classes"),
        ({"label_base": 2}, "label_base must be 0 or 1"),
        ({"num_classes": 10**11}, "num_classes must be from 1 to 1,000,000"),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path, arguments, message):
    folder = write_gcs(tmp_path)
    with pytest.raises(InputError, match=message):
        describe(folder, num_processes=1, **arguments)
    assert is_undescribed(folder)


def test_a_background_class_of_its_own_is_a_class_when_it_is_given(tmp_path):
    """As with 1,001 classes where number 0 is the background, which no image has."""
    folder = write_gcs(tmp_path)
    info = describe(folder, num_processes=1, label_base=0, num_classes=CLASSES + 1)
    assert info.num_classes == CLASSES + 1
    assert _labels_by_colour(folder) == {(i + 1, i) for i in range(CLASSES)}


def test_a_missing_shard_is_refused(tmp_path):
    folder = write_gcs(tmp_path)
    (tmp_path / "train" / "train-00001-of-00003").unlink()
    assert is_undescribed(folder)
    with pytest.raises(
        InputError, match=r"train shards must exist.* without number 1 of the 3 like train/"
    ):
        describe(folder, num_processes=1)


def test_shards_of_two_data_sets_are_refused(tmp_path):
    write_gcs(tmp_path, shards=3)
    with pytest.raises(InputError, match="the train shards of one data set"):
        describe(write_gcs(tmp_path, shards=2), num_processes=1)


def test_a_truncated_shard_is_refused(tmp_path):
    folder = write_gcs(tmp_path)
    shard = tmp_path / "train" / "train-00001-of-00003"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(InputError, match="train-00001-of-00003, which is cut short"):
        describe(folder, num_processes=1)


def test_an_image_of_another_kind_is_refused_by_name_or_accepted_by_number(tmp_path):
    folder = write_gcs(tmp_path, bad=_image(5, "PNG"))
    with pytest.raises(InputError, match=r"not a JPEG, in record 1 \(from 0\) of .*train-00002-of"):
        describe(folder, num_processes=1)
    info = describe(folder, num_processes=1, max_bad_images=1)
    assert info.report["train"]["refused"]["count"] == 1
    assert verify.verify(folder) == info  # which knows of it


def test_a_folder_without_shards_is_refused(tmp_path):
    assert not is_undescribed(str(tmp_path))
    with pytest.raises(InputError, match="with no shards"):
        describe(str(tmp_path))
    with pytest.raises(InputError, match="which is not a folder"):
        describe(str(tmp_path / "nowhere"))

"""The input pipeline on real JPEGs: order, exactness, pixels, and the work of the device."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_lars.data import decode
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.data.image_input import EvaluationInput, TrainingInput, to_device_batch
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.data.records.dataset_info import DatasetInfo, SplitInfo
from tf_lars.data.records.example import example_bytes
from tf_lars.data.records.tfrecord import write_shard
from tf_lars.errors import InputError

CLASSES = 3
TRAINING, VALIDATION = 42, 11


def _picture(seed, width, height):
    """Returns a smooth picture, whose JPEG decodes to nearly the same pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


SHAPE = {"width": 40, "height": 36, "channels": 3}


def _jpeg(seed):
    file = io.BytesIO()
    _picture(seed, SHAPE["width"], SHAPE["height"]).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared folder of three classes, with pictures of several shapes."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", TRAINING), ("val", VALIDATION)):
        for i in range(count):
            path = root / "raw" / split / f"class{i % CLASSES}" / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _picture(i, 40 + 7 * (i % 5), 36 + 5 * (i % 7)).save(path, quality=95)
    prepare_images(
        PrepareConfig(
            input_dir=str(root / "raw"),
            output_dir=str(root / "data"),
            train_shards=3,
            validation_shards=2,
            num_processes=1,
        )
    )
    return str(root / "data")


def _context(worker=0, num_workers=1, replicas=1):
    return tf.distribute.InputContext(num_workers, worker, replicas)


def _batches(dataset):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def test_training_batches_have_their_documented_form(data_dir):
    data = TrainingInput(data_dir, global_batch_size=6, image_size=16)
    assert data.num_examples == TRAINING
    (batch,) = _batches(data.dataset(_context(), 0, 1))
    assert {name: (v.dtype.name, v.shape) for name, v in batch.items()} == {
        "image": ("uint8", (6, 16, 16, 3)),
        "label": ("int32", (6,)),
        "flip": ("bool", (6,)),
    }


@pytest.mark.parametrize("augmentation", ["none", "reference"])
def test_two_runs_with_one_seed_are_equal_to_the_bit_and_another_seed_differs(
    data_dir, augmentation
):
    def run(seed):
        data = TrainingInput(data_dir, 6, 16, augmentation, seed=seed)
        return _batches(data.dataset(_context(), 0, 14))

    first, second, other = run(1), run(1), run(2)
    for one, two in zip(first, second, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(two[name], value)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_together_see_the_images_of_one_worker(data_dir, num_workers):
    data = TrainingInput(data_dir, 12, 16)
    alone = _batches(data.dataset(_context(), 0, 7))
    shares = [
        _batches(data.dataset(_context(worker, num_workers, num_workers), 0, 7))
        for worker in range(num_workers)
    ]
    for step, batch in enumerate(alone):
        for name, value in batch.items():
            together = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(together, value)


def test_a_run_that_begins_later_sees_the_same_images(data_dir):
    data = TrainingInput(data_dir, 12, 16)
    whole = _batches(data.dataset(_context(), 0, 9))
    rest = _batches(data.dataset(_context(), 5, 9))
    assert len(rest) == 4
    for one, two in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(two["image"], one["image"])


def test_an_image_is_cropped_anew_in_each_epoch(data_dir):
    data = TrainingInput(data_dir, TRAINING, 16)
    first, second = _batches(data.dataset(_context(), 0, 2))
    images = {image.tobytes() for batch in (first, second) for image in batch["image"]}
    assert len(images) == 2 * TRAINING
    assert sorted(first["label"]) == sorted(second["label"])
    assert 0 < first["flip"].sum() < TRAINING
    assert (first["flip"] != second["flip"]).any()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_evaluation_counts_every_image_once(data_dir, num_workers):
    data = EvaluationInput(data_dir, 2 * num_workers, image_size=16)
    images, weights, labels = [], [], []
    for worker in range(num_workers):
        batches = _batches(data.dataset(_context(worker, num_workers, num_workers)))
        assert len(batches) == data.steps
        for batch in batches:
            images += [image.tobytes() for image in batch["image"]]
            weights += list(batch["weight"])
            labels += list(batch["label"])
    assert sum(weights) == VALIDATION
    real = {image for image, weight in zip(images, weights, strict=True) if weight}
    assert len(real) == VALIDATION
    counted = [label for label, weight in zip(labels, weights, strict=True) if weight]
    assert np.bincount(counted).tolist() == [4, 4, 3]


@pytest.mark.parametrize("num_images", [1, 7])
@pytest.mark.parametrize("num_files", [1, 3, 8])
@pytest.mark.parametrize("num_workers", [1, 4])
def test_any_number_of_files_is_counted_exactly(tmp_path, num_images, num_files, num_workers):
    examples = [
        example_bytes(encoded=_jpeg(i), label=i + 1, synset="", text="", filename="", **SHAPE)
        for i in range(num_images)
    ]
    splits = {
        split: SplitInfo(
            tuple(
                write_shard(
                    tmp_path / f"{split}-{i:05d}-of-{num_files:05d}", examples[i::num_files]
                )
                for i in range(num_files)
            )
        )
        for split in ("train", "validation")
    }
    names = tuple(f"class{i}" for i in range(num_images))
    DatasetInfo("few", names, names, splits).save(tmp_path)
    data = EvaluationInput(str(tmp_path), 2 * num_workers, image_size=16)
    counted = [
        label
        for worker in range(num_workers)
        for batch in _batches(data.dataset(_context(worker, num_workers, num_workers)))
        for label, weight in zip(batch["label"], batch["weight"], strict=True)
        if weight
    ]
    assert sorted(counted) == list(range(num_images))


def test_evaluation_sees_the_centre_of_the_image(data_dir):
    """Compares with PIL: decode, crop the central 87.5 % of the short side, resize bilinearly."""
    data = EvaluationInput(data_dir, VALIDATION, image_size=32)
    (batch,) = _batches(data.dataset(_context()))
    # Validation images are dealt to the shards in turn, in the order of their names.
    pictures = []
    for label in range(CLASSES):
        for i in range(label, VALIDATION, CLASSES):
            image = _picture(i, 40 + 7 * (i % 5), 36 + 5 * (i % 7))
            side = round(0.875 * min(image.size))
            left, top = (image.width - side) // 2, (image.height - side) // 2
            crop = image.crop((left, top, left + side, top + side))
            pictures.append((label, np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR))))
    for label, image in zip(batch["label"], batch["image"], strict=True):
        differences = [
            np.abs(image.astype(float) - picture).mean() for k, picture in pictures if k == label
        ]
        assert min(differences) < 4


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path):
    picture = _picture(0, 24, 24)
    picture.save(tmp_path / "image.jpg", quality=95)
    encoded = (tmp_path / "image.jpg").read_bytes()
    decoded = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(
        decode.centre_crop(decode.Jpeg(encoded), 24, 1.0).numpy(), decoded
    )


def test_flips_happen_on_the_device():
    image = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    batch = {
        "image": tf.constant(image),
        "label": tf.constant([2, 0]),
        "flip": tf.constant([True, False]),
    }
    x, y, weight = to_device_batch(batch, num_classes=3)
    np.testing.assert_array_equal(x[0], image[0, :, ::-1])
    np.testing.assert_array_equal(x[1], image[1])
    np.testing.assert_array_equal(y, [[0, 0, 1], [1, 0, 0]])
    assert x.dtype == tf.float32  # in which a model's own arithmetic does not wrap around
    assert weight is None


def test_boxes_are_those_of_the_reference(data_dir):
    """Boxes cover 8 to 100 % of the area with aspect ratios from 3/4 to 4/3."""
    shape = tf.constant([300, 400, 3])
    areas, ratios = [], []
    for i in range(300):
        _, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape, bounding_boxes=tf.zeros([1, 0, 4]), seed=[0, i], **decode.REFERENCE_BOX
        )
        height, width = extent.numpy()[:2]
        areas.append(height * width / 120_000)
        ratios.append(width / height)
    assert 0.07 < min(areas) < 0.12
    assert max(areas) > 0.85
    assert min(ratios) > 0.74
    assert max(ratios) < 1.35


def test_a_schedule_changes_the_size_between_epochs_and_nothing_else(data_dir):
    schedule = ImageSizeSchedule.parse("0:8,1:12,3:16")
    data = TrainingInput(data_dir, 12, schedule)
    assert data.shape_changes == (4, 11)  # 42 images: epochs end after 3.5, 7 and 10.5 steps
    plain = TrainingInput(data_dir, 12, 16)
    for first, last, size in ((0, 4, 8), (4, 11, 12), (11, 14, 16)):
        batches = _batches(data.dataset(_context(), first, last))
        for one, other in zip(
            batches, _batches(plain.dataset(_context(), first, last)), strict=True
        ):
            assert one["image"].shape == (12, size, size, 3)
            np.testing.assert_array_equal(one["label"], other["label"])
            np.testing.assert_array_equal(one["flip"], other["flip"])


def test_batches_grow_beside_images_and_hold_the_same_examples(data_dir):
    batches = BatchSizeSchedule.parse("0:12,2:24")
    data = TrainingInput(data_dir, batches, ImageSizeSchedule.parse("0:8,1:16"))
    # 42 images: the second epoch ends within step 6, and the stream continues with example 84.
    assert data.shape_changes == (4, 7)
    one_by_one = _batches(TrainingInput(data_dir, 1, 16).dataset(_context(), 0, 132))
    labels = np.concatenate([batch["label"] for batch in one_by_one])
    start = 0
    for first, last, size, batch_size in ((0, 4, 8, 12), (4, 7, 16, 12), (7, 9, 16, 24)):
        for batch in _batches(data.dataset(_context(), first, last)):
            assert batch["image"].shape == (batch_size, size, size, 3)
            np.testing.assert_array_equal(batch["label"], labels[start : start + batch_size])
            start += batch_size
    assert start == 132


@pytest.mark.parametrize("ratio", [2, 4])
def test_what_shrinks_is_averaged_by_the_decoder(tmp_path, ratio):
    """Stripes of one pixel become grey instead of the colour that sampling happens to hit."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "image.jpg", quality=100, subsampling=0)
    small = decode.centre_crop(decode.Jpeg((tmp_path / "image.jpg").read_bytes()), 64 // ratio, 1.0)
    assert np.abs(small.numpy().astype(int) - 100).max() <= 4


def test_an_unknown_augmentation_is_refused(data_dir):
    with pytest.raises(InputError, match="one of none, reference"):
        TrainingInput(data_dir, 6, 16, "much")

"""Data in memory equal the data of the pipeline."""

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data import decoded_cache, image_input, in_memory
from tf_lars.data.held_out import held_out_mask
from tf_lars.data.prepare import digits
from tf_lars.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `demo`)")
    folder = str(tmp_path_factory.mktemp("data") / "digits")
    digits.prepare(folder)
    return folder


def _batches(data, steps=3):
    context = tf.distribute.InputContext()
    return list(data.dataset(context, 0, steps).as_numpy_iterator())


def test_every_example_is_there_in_its_order(folder):
    for split, count in (("train", digits.NUM_TRAIN), ("validation", digits.NUM_VALIDATION)):
        images = in_memory.load(folder, split, 8, 1.0)
        assert images.image.shape == (count, 8, 8, 3)
        source = image_input.EvaluationInput(folder, 100, 8, 1.0, split=split)
        batches = list(source.dataset(tf.distribute.InputContext()).as_numpy_iterator())
        image, label = (np.concatenate([b[k] for b in batches])[:count] for k in ("image", "label"))
        np.testing.assert_array_equal(images.image, image)
        np.testing.assert_array_equal(images.label, label)


@pytest.mark.parametrize("augmentation", ["none", "reference", "pad_crop"])
def test_batches_are_those_of_the_pipeline_from_files(folder, augmentation):
    settings = {"image_size": 8, "augmentation": augmentation, "crop_fraction": 1.0, "seed": 3}
    files = image_input.TrainingInput(folder, 512, **settings)
    memory = in_memory.ResidentTrainingInput(
        folder, 512, **settings, images=in_memory.load(folder, "train", 8, 1.0)
    )
    for read, kept in zip(_batches(files), _batches(memory), strict=True):
        np.testing.assert_array_equal(read["label"], kept["label"])
        np.testing.assert_array_equal(
            read.get("flip", np.zeros(512, bool)), kept["flip"], strict=True
        )
        difference = np.abs(read["image"].astype(int) - kept["image"])
        assert difference.max() <= (2 if augmentation == "reference" else 0)


def test_every_augmentation_gives_batches_of_the_same_kind(folder):
    images = in_memory.load(folder, "train", 8, 1.0)
    kinds = [
        in_memory.ResidentTrainingInput("", 32, image_size=8, augmentation=name, images=images)
        .dataset(tf.distribute.InputContext(), 0, 1)
        .element_spec
        for name in ("none", "reference", "pad_crop")
    ]
    assert kinds[0] == kinds[1] == kinds[2]


def test_a_window_at_half_size_is_the_mean_over_squares():
    pixels = np.random.default_rng(0).integers(0, 256, [8, 8, 3]).astype(np.uint8)
    window = in_memory.SquareImage(tf.constant(pixels)).window(tf.constant([1, 0, 2, 3]), 2)
    squares = pixels[2:6, 0:6].reshape(2, 2, 3, 2, 3).astype(float)
    np.testing.assert_allclose(window, squares.mean((1, 3)), atol=0.5)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_images_in_memory_shrink_alike_and_round_half_up_at_each_halving(ratio):
    pixels = np.random.default_rng(1).integers(0, 256, [24, 32, 3]).astype(np.uint8)
    top, left, height, width = 1, 0, 16 // ratio, 24 // ratio
    window = tf.constant([top, left, height, width])
    squares = in_memory.SquareImage(tf.constant(pixels)).window(window, ratio)
    cached = decoded_cache.CachedImage({0: pixels}, tf.constant(0), tf.constant(pixels.shape))
    expected = pixels[ratio * top : ratio * top + 16, :24].astype(int)
    for _ in range(int(np.log2(ratio))):
        rows = expected[0::2] + expected[1::2]
        expected = (rows[:, 0::2] + rows[:, 1::2] + 2) // 4
    np.testing.assert_array_equal(squares, expected)
    np.testing.assert_array_equal(cached.window(window, ratio), expected)


def test_the_held_out_examples_are_a_share_of_every_class_and_always_the_same():
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])
    mask = held_out_mask(labels, 40)
    assert mask.sum() == 40
    np.testing.assert_array_equal(np.bincount(labels[mask]), [20, 10, 6, 4])
    np.testing.assert_array_equal(mask, held_out_mask(labels, 40))


def test_more_examples_than_there_are_cannot_be_held_out():
    with pytest.raises(InputError, match="0 to 3 can be held out"):
        held_out_mask(np.zeros(3, int), 4)

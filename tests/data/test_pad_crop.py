"""Padding and cropping of small images, and runs without mirror images."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data import decode, in_memory
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.errors import InputError

ALONE = tf.distribute.InputContext(1, 0, 1)


@pytest.mark.parametrize(("mode", "of_numpy"), [("reflect", "reflect"), ("zeros", "constant")])
def test_a_crop_is_a_window_of_the_padded_image_and_every_window_is_drawn(mode, of_numpy):
    image = np.random.default_rng(0).integers(1, 256, [8, 8, 3]).astype(np.uint8)
    padded = np.pad(image, [[1, 1], [1, 1], [0, 0]], of_numpy)
    windows = {padded[i : i + 8, j : j + 8].tobytes(): (i, j) for i in range(3) for j in range(3)}
    crop = tf.function(lambda key: decode.shifted(tf.constant(image), 1, mode, key))
    counts = collections.Counter(
        windows[crop(tf.constant([0, i], tf.int64)).numpy().tobytes()] for i in range(450)
    )
    assert len(counts) == 9
    assert min(counts.values()) > 25  # 50 of each are expected


def test_without_padding_images_are_those_of_evaluation(digits_dir):
    data = TrainingInput(digits_dir, 64, 8, "pad_crop", crop_fraction=1.0, crop_padding=0.05)
    plain = TrainingInput(digits_dir, 64, 8, "none", crop_fraction=1.0)
    one, other = (next(d.dataset(ALONE, 0, 1).as_numpy_iterator()) for d in (data, plain))
    np.testing.assert_array_equal(one["image"], other["image"])
    assert 10 < one["flip"].sum() < 54


def test_the_padding_is_a_share_of_the_side_at_every_size(digits_dir):
    shown = next(EvaluationInput(digits_dir, 1, 32, 1.0, split="train").dataset(ALONE).__iter__())
    images = in_memory.Images(shown["image"].numpy(), shown["label"].numpy())
    data = in_memory.ResidentTrainingInput(
        "", 1, 32, "pad_crop", crop_fraction=1.0, crop_padding_mode="zeros", images=images
    )
    drawn = [b["image"][0] for b in data.dataset(ALONE, 0, 60).as_numpy_iterator()]
    padded = np.pad(images.image[0], [[4, 4], [4, 4], [0, 0]])
    windows = [padded[i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
    for image in drawn:
        assert any(np.array_equal(image, window) for window in windows)
    assert len({image.tobytes() for image in drawn}) > 20


@pytest.mark.parametrize("augmentation", ["reference", "pad_crop"])
def test_without_flips_the_images_are_the_same_and_none_is_mirrored(augmentation, digits_dir):
    data = [
        TrainingInput(digits_dir, 64, 8, augmentation, flip=flip, seed=2) for flip in (True, False)
    ]
    mirrored, upright = (next(d.dataset(ALONE, 3, 4).as_numpy_iterator()) for d in data)
    np.testing.assert_array_equal(mirrored["image"], upright["image"])
    assert mirrored["flip"].any()
    assert set(upright) == {"image", "label"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_padding": 0.6}, r"from 0 to 0\.5\. Received: 0\.6"),
        ({"crop_padding": float("nan")}, r"from 0 to 0\.5\. Received: nan"),
        ({"crop_padding_mode": "edge"}, "one of reflect, zeros. Received: 'edge'"),
    ],
)
def test_a_padding_that_cannot_be_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        TrainingInput("", 64, 8, "pad_crop", **values)

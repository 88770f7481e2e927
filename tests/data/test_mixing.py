"""MixUp, CutMix and random erasing in closed form, and their draws as functions of the key."""

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data.image_input import to_device_batch
from tf_lars.data.mixing import ERASED_COLOUR, Mixing, erase, mix
from tf_lars.errors import InputError

SIZE = 48
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
TARGETS = np.eye(5, dtype=np.float32)[[3, 0, 3, 1]]
WHOLE = tf.ones([4])
NO_BOX = tf.zeros([4, 4], tf.int32)


def _draws(mixing, count, height=SIZE, width=SIZE, seed=1):
    """Returns the draws of many examples, stacked."""
    dataset = tf.data.Dataset.range(count).map(
        lambda index: mixing.draw(tf.stack([tf.constant(seed, tf.int64), index]), height, width)
    )
    return {name: value.numpy() for name, value in next(iter(dataset.batch(count))).items()}


def _area(box):
    return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


def test_mixup_weights_pixels_and_labels_alike():
    own = tf.constant([0.25, 1.0, 0.0, 0.9])
    images, targets = mix(IMAGES, TARGETS, own, NO_BOX)
    weight = own.numpy()[:, None, None, None]
    expected = weight * IMAGES + (1 - weight) * np.roll(IMAGES, 1, axis=0).astype(np.float32)
    np.testing.assert_allclose(images, expected, rtol=1e-6)
    weight = weight[..., 0, 0]
    expected = weight * TARGETS + (1 - weight) * np.roll(TARGETS, 1, axis=0)
    np.testing.assert_array_equal(targets, expected)
    np.testing.assert_array_equal(images[1], IMAGES[1])
    np.testing.assert_array_equal(images[2], IMAGES[1])


def test_cutmix_pastes_the_partner_and_weighs_labels_by_area():
    boxes = np.array([[0, 0, 12, 48], [5, 7, 5, 9], [10, 20, 34, 38], [0, 0, 48, 48]], np.int32)
    images, targets = mix(IMAGES, TARGETS, WHOLE, boxes)
    expected = IMAGES.copy()
    for i, (top, left, bottom, right) in enumerate(boxes):
        expected[i, top:bottom, left:right] = IMAGES[i - 1, top:bottom, left:right]
    np.testing.assert_array_equal(images, expected)
    share = np.float32(1) - (_area(boxes) / np.float32(SIZE * SIZE)).astype(np.float32)
    expected = share[:, None] * TARGETS + (1 - share[:, None]) * np.roll(TARGETS, 1, axis=0)
    np.testing.assert_array_equal(targets, expected)


def test_labels_add_up_to_one_and_weigh_as_the_pixels_do():
    """Each class is an image of one level, so the mean level of a mixture must match its label."""
    mixing = Mixing(mixup_alpha=1.0, cutmix_alpha=1.0)
    count = 64
    levels = np.linspace(0, 252, count, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (count, SIZE, SIZE, 3))
    draws = _draws(mixing, count)
    mixed, targets = mix(images, np.eye(count, dtype=np.float32), draws["own"], draws["paste"])
    np.testing.assert_allclose(targets.numpy().sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        mixed.numpy().mean((1, 2, 3)), targets.numpy() @ levels, rtol=1e-4, atol=1e-2
    )


def test_random_erasing_paints_the_box_and_nothing_else():
    boxes = np.array([[1, 2, 9, 5], [0, 0, 0, 0], [0, 0, 48, 48], [40, 0, 48, 48]], np.int32)
    expected = IMAGES.copy()
    for i, (top, left, bottom, right) in enumerate(boxes):
        expected[i, top:bottom, left:right] = ERASED_COLOUR
    erased = erase(IMAGES, boxes)
    assert erased.dtype == tf.uint8
    np.testing.assert_array_equal(erased, expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weights_follow_beta(alpha):
    own = _draws(Mixing(mixup_alpha=alpha), 4000)["own"]
    assert own.min() >= 0
    assert own.max() <= 1
    assert own.mean() == pytest.approx(0.5, abs=0.03)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_tiny_alpha_draws_numbers():
    assert np.isfinite(_draws(Mixing(mixup_alpha=1e-3), 500)["own"]).all()


def test_cutmix_boxes_lie_in_the_image_and_cover_what_clipping_leaves():
    height, width = 200, 320
    draws = _draws(Mixing(cutmix_alpha=1.0), 4000, height, width)
    box = draws["paste"]
    assert (draws["own"] == 1).all()
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2] <= height).all()
    assert (box[:, 3] <= width).all()
    assert (box[:, 2:] >= box[:, :2]).all()
    # A side of length s about a uniform centre keeps s - s^2/4 of it within the image; with s^2
    # uniform the expected area is 1/2 - 1/5 + 1/48.
    share = _area(box) / (height * width)
    assert share.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)


def test_with_both_each_example_takes_one_of_the_two():
    draws = _draws(Mixing(mixup_alpha=1.0, cutmix_alpha=1.0), 2000)
    blends, pastes = draws["own"] < 1, _area(draws["paste"]) > 0
    assert not (blends & pastes).any()
    assert blends.mean() == pytest.approx(0.5, abs=0.05)
    assert pastes.mean() == pytest.approx(0.5, abs=0.05)


def test_erased_boxes_have_the_probability_area_and_aspect_of_the_paper():
    height, width = 300, 300
    box = _draws(Mixing(random_erasing_probability=0.3), 4000, height, width)["erase"]
    area = _area(box) / (height * width)
    erased = area > 0
    assert erased.mean() == pytest.approx(0.3, abs=0.03)
    sides = (box[:, 2:] - box[:, :2])[erased]
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] <= 300).all()
    assert 0.019 < area[erased].min() < 0.03
    assert 0.35 < area[erased].max() < 0.41
    aspect = sides[:, 0] / sides[:, 1]
    assert 0.28 < aspect.min() < 0.35
    assert 2.9 < aspect.max() < 3.5
    # All places within the image are equally likely: on average, the box is in the centre.
    centre = (box[erased][:, :2] + box[erased][:, 2:]) / 2
    np.testing.assert_allclose(centre.mean(0), 150, atol=8)


def test_draws_depend_on_the_key_and_not_on_what_else_is_on():
    everything = Mixing(0.2, 1.0, 0.5)
    draws = _draws(everything, 50)
    for name, value in _draws(everything, 50).items():
        np.testing.assert_array_equal(value, draws[name])
    np.testing.assert_array_equal(_draws(everything, 20)["own"], draws["own"][:20])
    erasing = _draws(Mixing(random_erasing_probability=0.5), 50)
    assert set(erasing) == {"erase"}
    np.testing.assert_array_equal(erasing["erase"], draws["erase"])
    assert (_draws(everything, 50, seed=2)["own"] != draws["own"]).any()
    assert _draws(Mixing(0.0, 0.0, 1e-9), 5)["erase"].max() == 0


def test_the_device_flips_then_erases_then_mixes():
    batch = {
        "image": tf.constant(IMAGES),
        "label": tf.constant([3, 0, 3, 1]),
        "flip": tf.constant([True, False, False, True]),
        "erase": tf.constant([[0, 0, 4, 4]] * 4),
        "own": tf.constant([0.5, 1.0, 1.0, 1.0]),
        "paste": tf.constant([[0, 0, 0, 0], [0, 0, 24, 48], [0, 0, 0, 0], [0, 0, 0, 0]]),
    }
    images, targets, weight = to_device_batch(batch, num_classes=5)
    each = IMAGES.copy()
    each[[0, 3]] = each[[0, 3], :, ::-1]
    each[:, :4, :4] = ERASED_COLOUR
    expected = each.astype(np.float32)
    expected[0] = (expected[0] + each[3]) / 2
    expected[1, :24] = each[0, :24]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(
        targets, [[0, 0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]
    )
    assert weight is None


def test_xla_mixes_as_tensorflow_does():
    draws = _draws(Mixing(0.2, 1.0, 1.0), 4)
    batch = {"image": tf.constant(IMAGES), "label": tf.constant([3, 0, 3, 1]), **draws}
    plain = to_device_batch(batch, num_classes=5)
    compiled = tf.function(lambda b: to_device_batch(b, num_classes=5)[:2], jit_compile=True)(batch)
    for one, two in zip(plain, compiled, strict=False):
        np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup_alpha": -0.1}, "mixup_alpha must be 0 or above"),
        ({"cutmix_alpha": float("inf")}, "cutmix_alpha must be 0 or above"),
        ({"random_erasing_probability": 1.5}, "from 0 to 1"),
        ({"random_erasing_probability": float("nan")}, "from 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Mixing(**arguments)


def test_one_example_cannot_be_mixed():
    with pytest.raises(InputError, match="at least 2 examples on each device"):
        Mixing(mixup_alpha=0.2).check(1)
    Mixing(mixup_alpha=0.2).check(2)
    Mixing(random_erasing_probability=0.2).check(1)

"""RandAugment and AugMix: operations compared with PIL's, and draws as functions of the key."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tests.helpers.paths import ROOT
from tf_lars.data.augmentation_names import KERAS_CV_AUGMENTATIONS, check_augmentation
from tf_lars.errors import InputError

pytest.importorskip("keras_cv", reason="needs keras-cv (extra `keras-cv`)")
from tf_lars.data import augment

SIZE = 64
GREY = (128, 128, 128)


def _picture(seed):
    """Returns a picture with smooth areas, edges and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.int32)
    smooth = smooth + rng.integers(-6, 7, smooth.shape)
    smooth[:, SIZE // 2 :] = smooth[:, SIZE // 2 :] * 3 // 4
    return np.clip(smooth, 0, 255).astype(np.uint8)


PICTURES = np.stack([_picture(seed) for seed in range(6)])


def _keys(count, seed=5):
    return tf.stack([tf.fill([count], tf.constant(seed, tf.int64)), tf.range(count, dtype="int64")])


def _augmented(policy, images, keys, parallel=None):
    """Returns images through a tf.data map, as the input pipeline runs a policy."""
    dataset = tf.data.Dataset.from_tensor_slices((images, tf.transpose(keys)))
    return np.stack([image.numpy() for image in dataset.map(policy, parallel)])


def _affine(*matrix):
    """Returns PIL's affine map with TensorFlow's origin, the centre of the first pixel."""
    a, b, c, d, e, f = matrix
    shifted = (a, b, c + 0.5 * (1 - a - b), d, e, f + 0.5 * (1 - d - e))
    return lambda p: p.transform(
        p.size, Image.Transform.AFFINE, shifted, Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _contrast(picture, factor):
    """Scales each channel about its own mean; PIL scales all about the mean grey."""
    x = np.asarray(picture, np.float64)
    mean = x.mean((0, 1))
    return np.clip(np.round((x - mean) * factor + mean), 0, 255)


def _expected(name, m, s):
    """Returns the operation of strength m and sign s as a function of a PIL image."""
    factor = 1 + 0.9 * s * m
    side = SIZE * 0.45 * s * m
    return {
        "identity": lambda p: p,
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "rotate": lambda p: p.rotate(s * 30 * m, Image.Resampling.BILINEAR, fillcolor=GREY),
        "solarize": lambda p: ImageOps.solarize(p, 256 - 256 * m),
        "color": lambda p: ImageEnhance.Color(p).enhance(factor),
        "posterize": lambda p: ImageOps.posterize(p, 8 - round(4 * m)),
        "contrast": lambda p: _contrast(p, factor),
        "brightness": lambda p: ImageEnhance.Brightness(p).enhance(factor),
        "sharpness": lambda p: ImageEnhance.Sharpness(p).enhance(factor),
        "shear_x": _affine(1, 0.3 * s * m, 0, 0, 1, 0),
        "shear_y": _affine(1, 0, 0, 0.3 * s * m, 1, 0),
        "translate_x": _affine(1, 0, -side, 0, 1, 0),
        "translate_y": _affine(1, 0, 0, 0, 1, -side),
    }[name]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("strength", [0.25, 0.9])
@pytest.mark.parametrize("name", list(augment._operations()))
def test_operations_are_those_of_pil(name, strength, sign):
    operation = augment._operations()[name]
    expected = _expected(name, strength, sign)
    # At the border of an image, PIL and TensorFlow blend with the fill colour differently.
    moves = name.startswith(("rotate", "shear", "translate"))
    for picture in PICTURES:
        result = operation(tf.constant(picture), tf.constant(strength), tf.constant(sign))
        assert result.dtype == tf.uint8
        reference = np.asarray(expected(Image.fromarray(picture)), np.float64)
        difference = np.abs(result.numpy() - reference)
        assert np.mean(difference <= 1) > (0.93 if moves else 0.999)


@pytest.mark.parametrize("name", sorted({*augment._operations()} - {"auto_contrast", "equalize"}))
def test_strength_0_changes_nothing(name):
    result = augment._operations()[name](PICTURES[0], tf.constant(0.0), tf.constant(1.0))
    np.testing.assert_array_equal(result, PICTURES[0])


def test_an_even_image_survives_operations_that_stretch_its_levels():
    grey = np.full((SIZE, SIZE, 3), 77, np.uint8)
    for name in ("auto_contrast", "equalize"):
        result = augment._operations()[name](grey, tf.constant(1.0), tf.constant(1.0))
        np.testing.assert_array_equal(result, grey)


@pytest.mark.parametrize("name", KERAS_CV_AUGMENTATIONS)
def test_a_picture_depends_on_its_key_alone(name):
    policy = augment.policy(name, 9.0)
    images, keys = np.tile(PICTURES, (4, 1, 1, 1)), _keys(24)
    first = _augmented(policy, images, keys)
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    np.testing.assert_array_equal(_augmented(policy, images, keys, parallel=4), first)
    backwards = _augmented(augment.policy(name, 9.0), images[::-1], keys[:, ::-1])
    np.testing.assert_array_equal(backwards[::-1], first)
    assert len({picture.tobytes() for picture in first}) > 18
    assert (_augmented(policy, images, _keys(24, seed=6)) != first).any()


def _recording(count):
    """Returns operations that store their number, strength and sign in a float32 image."""

    def operation(i):
        return lambda image, strength, sign: tf.stack([float(i), strength, sign])

    return {str(i): operation(i) for i in range(count)}


def test_randaugment_draws_operations_and_signs_evenly_with_one_strength():
    operations = _recording(14)

    def last(image, key):
        return augment.randaugment(image, key, operations=operations, magnitude=7.0, count=2)

    draws = _augmented(last, np.zeros((2800, 3), np.float32), _keys(2800))
    counts = np.bincount(draws[:, 0].astype(int), minlength=14)
    # 200 each; 60 is more than 4 standard deviations.
    assert np.abs(counts - 200).max() < 60
    assert set(np.round(draws[:, 1], 6)) == {np.float32(0.7)}
    assert abs(draws[:, 2].mean()) < 0.08


def test_randaugment_applies_two_operations():
    operations = {
        "first": lambda image, strength, sign: image + 1,
        "second": lambda image, strength, sign: image + 1,
    }
    result = augment.randaugment(
        tf.zeros([4, 4, 3], tf.uint8),
        tf.constant([1, 2], tf.int64),
        operations=operations,
        magnitude=9.0,
    )
    np.testing.assert_array_equal(result, np.full((4, 4, 3), 2))


def test_augmix_weights_add_up_and_chains_have_one_to_three_operations():
    same = dict.fromkeys(augment.AUGMIX_OPERATIONS, lambda image, strength, sign: image)
    images = np.tile(PICTURES, (5, 1, 1, 1))
    mixed = _augmented(lambda i, k: augment.augmix(i, k, operations=same), images, _keys(30))
    np.testing.assert_array_equal(mixed, images)

    # Each operation adds 60 levels: the mixture lies between none and three of them.
    adds = dict.fromkeys(augment.AUGMIX_OPERATIONS, lambda image, strength, sign: image + 60)
    black = np.zeros((600, 1, 1, 3), np.uint8)
    levels = _augmented(lambda i, k: augment.augmix(i, k, operations=adds), black, _keys(600))
    levels = levels[:, 0, 0, 0]
    assert levels.min() < 10
    assert 130 < levels.max() <= 180
    # Half of the picture on average, and two operations in a chain.
    assert levels.mean() == pytest.approx(60, abs=4)


def test_augmix_draws_magnitudes_from_a_tenth_to_three():
    def operation(image, strength, sign):
        return tf.fill(image.shape, tf.cast(tf.round(strength * 800), tf.uint8))

    operations = dict.fromkeys(augment.AUGMIX_OPERATIONS, operation)
    black = np.zeros((300, 1, 1, 3), np.uint8)
    levels = _augmented(lambda i, k: augment.augmix(i, k, operations=operations), black, _keys(300))
    # A mixture of strengths between 0.01 and 0.3, times a weight between 0 and 1.
    assert levels.max() <= 240
    assert levels.max() > 120


def test_half_precision_of_the_model_leaves_the_pictures_alone():
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        operations = augment._operations.__wrapped__()
    finally:
        keras.config.set_dtype_policy(before)
    for name, operation in augment._operations().items():
        arguments = PICTURES[0], tf.constant(0.6), tf.constant(1.0)
        np.testing.assert_array_equal(operations[name](*arguments), operation(*arguments))


def test_a_policy_can_be_made_in_the_scope_of_a_strategy(mirrored):
    with mirrored.scope():
        operations = augment._operations.__wrapped__()

    def policy(image, key):
        return augment.randaugment(image, key, operations=operations, magnitude=9.0)

    there = _augmented(policy, PICTURES, _keys(6))
    here = _augmented(augment.policy("randaugment", 9.0), PICTURES, _keys(6))
    np.testing.assert_array_equal(there, here)


def test_one_module_imports_keras_cv():
    importing = [
        str(path.relative_to(ROOT))
        for folder in ("tf_lars", "launch")
        for path in (ROOT / folder).rglob("*.py")
        if "import keras_cv" in path.read_text() or "from keras_cv" in path.read_text()
    ]
    assert importing == ["tf_lars/data/augment.py"]


@pytest.mark.parametrize("name", KERAS_CV_AUGMENTATIONS)
def test_without_keras_cv_one_sentence_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(InputError, match=r'pip install "tf-lars\[keras-cv\]"'):
        check_augmentation(name)
    check_augmentation("reference")


def test_the_check_of_an_augmentation_imports_neither_tensorflow_nor_keras_cv():
    program = (
        "import sys\nfrom tf_lars.data.augmentation_names import check_augmentation\n"
        "check_augmentation('randaugment')\n"
        "assert not {'tensorflow', 'keras_cv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("magnitude", [-1, 10.5, float("nan")])
def test_a_magnitude_off_the_scale_is_refused(magnitude):
    with pytest.raises(InputError, match="from 0 to 10"):
        check_augmentation("randaugment", magnitude)

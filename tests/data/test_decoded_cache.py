"""Decoded images kept in memory."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.test_image_input import CLASSES, TRAINING, VALIDATION, _batches, _context, data_dir
from tf_lars.data import decoded_cache
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.records import example_reader
from tf_lars.errors import InputError

__all__ = ["data_dir"]  # the fixture


def _epochs(data, count):
    return _batches(data.dataset(_context(), 0, count))


@pytest.mark.parametrize("size", [12, 32])
@pytest.mark.parametrize("augmentation", ["none", "reference"])
def test_cached_images_are_those_of_the_files(data_dir, augmentation, size):
    plain, cached = (
        _epochs(TrainingInput(data_dir, TRAINING, size, augmentation, cache=cache), 2)
        for cache in (False, True)
    )
    for one, other in zip(plain, cached, strict=True):
        np.testing.assert_array_equal(one["label"], other["label"])
        # A decoder that crops or scales rounds differently, mostly at the border of a block.
        difference = np.abs(one["image"].astype(int) - other["image"])
        assert difference.mean() < 1.5
    again = _epochs(TrainingInput(data_dir, TRAINING, size, augmentation, cache=True), 2)
    for one, other in zip(cached, again, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_evaluation_is_cached_as_well(data_dir):
    first, second = (
        _batches(EvaluationInput(data_dir, VALIDATION, 16, cache=True).dataset(_context()))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0]["image"], second[0]["image"])
    assert np.bincount(first[0]["label"]).tolist() == [4, 4, 3]
    assert CLASSES == 3


def test_each_image_is_decoded_once(data_dir, monkeypatch):
    decoded = []

    def count(encoded):
        note = tf.numpy_function(lambda: decoded.append(1) or 0, [], tf.int64)
        with tf.control_dependencies([note]):
            return tf.io.decode_jpeg(encoded, channels=3)

    monkeypatch.setattr(decoded_cache, "decode", count)
    example_reader.open_split.cache_clear()  # for a new reader, and so a new cache
    _epochs(TrainingInput(data_dir, TRAINING, 16, cache=True), 3)
    assert len(decoded) == TRAINING


def test_a_set_that_does_not_fit_is_refused(data_dir, monkeypatch):
    monkeypatch.setattr(decoded_cache.machine, "available_memory_bytes", lambda: 1000)
    example_reader.open_split.cache_clear()
    with pytest.raises(InputError, match=r"at most 80% of the available memory.*42 images"):
        _epochs(TrainingInput(data_dir, TRAINING, 16, cache=True), 1)

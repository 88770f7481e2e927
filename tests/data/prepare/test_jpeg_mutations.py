"""Preparation accepts exactly those JPEG files that training decodes, whatever was done to them."""

import collections
import random

import pytest
import tensorflow as tf

from tests.helpers import jpeg_mutations
from tf_lars.data.prepare.encode import EncodingSettings, to_jpeg
from tf_lars.data.prepare.image_header import BadImage
from tf_lars.data.records.example import BadRecord, check_image
from tf_lars.data.records.jpeg_markers import is_plain, read_header

SETTINGS = EncodingSettings(max_image_pixels=10_000_000)  # or mutated sizes take long to decode


def fault_in_training(data, rng):
    """Decodes a file in all the ways of training; returns the first that fails, or None."""
    header = read_header(data)
    height, width = header.height, header.width
    try:
        if tuple(tf.io.extract_jpeg_shape(data).numpy()) != (height, width, header.channels):
            return "another shape"
        if tf.io.decode_jpeg(data, channels=3).shape != (height, width, 3):
            return "decoded to another shape"
        for ratio in (1, 2, 4):
            rows, columns = height // ratio, width // ratio
            if rows and columns:
                top, left = rng.randrange(rows), rng.randrange(columns)
                sides = rng.randint(1, rows - top), rng.randint(1, columns - left)
                for crop in (
                    (0, 0, rows, columns),
                    (rows // 4, columns // 4, max(rows // 2, 1), max(columns // 2, 1)),
                    (top, left, *sides),
                ):
                    found = tf.image.decode_and_crop_jpeg(
                        data, crop, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
                    )
                    if found.shape != (*crop[2:], 3):
                        return f"crop {crop} at 1/{ratio} has another shape"
    except tf.errors.InvalidArgumentError as error:
        return str(error)
    return None


@pytest.mark.parametrize("mutations", [8_000, pytest.param(250_000, marks=pytest.mark.exhaustive)])
def test_a_damaged_jpeg_passes_unchanged_exactly_if_training_decodes_it(mutations):
    rng = random.Random(mutations)
    files = jpeg_mutations.whole_files()
    assert all(to_jpeg(data).data == data for data in files)
    counts = collections.Counter()
    for number in range(mutations):
        data = jpeg_mutations.mutated(rng, files)
        header = read_header(data)
        try:
            image = to_jpeg(data, SETTINGS)
        except BadImage as error:
            counts["refused"] += 1
            # No good file is lost, either.
            if header is not None and header.is_common and "pixels" not in str(error):
                assert fault_in_training(data, rng), f"file {number}: {data.hex()}"
            continue
        if image.data == data:
            counts["plain" if is_plain(data) else "decoded"] += 1
            fault = fault_in_training(data, rng)
            assert fault is None, f"file {number}: {fault}: {data.hex()}"
    # Otherwise the mutations are too strong or too weak to show anything.
    assert min(counts["plain"], counts["decoded"], counts["refused"]) > mutations / 20, counts


def test_a_record_that_passes_its_check_is_one_that_training_decodes():
    rng, files = random.Random(8_000), jpeg_mutations.whole_files()
    passed = 0
    for number in range(4_000):
        data = jpeg_mutations.mutated(rng, files)
        header = read_header(data)
        if header is None or header.width * header.height > SETTINGS.max_image_pixels:
            continue
        try:
            check_image(data)
        except BadRecord:
            continue
        passed += 1
        fault = fault_in_training(data, rng)
        assert fault is None, f"file {number}: {fault}: {data.hex()}"
    assert passed > 400

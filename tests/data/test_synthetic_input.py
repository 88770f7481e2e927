"""Synthetic input: batches like those of real images, the same at every step."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.data.image_input import EvaluationInput, TrainingInput
from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.data.mixing import Mixing
from tf_lars.data.synthetic_data import SyntheticData
from tf_lars.data.synthetic_input import SyntheticEvaluationInput, SyntheticTrainingInput

DATA = SyntheticData(1000, 5)
ALONE = tf.distribute.InputContext(1, 0, 1)
SECOND_OF_TWO = tf.distribute.InputContext(2, 1, 2)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"augmentation": "none"},
        {"augmentation": "pad_crop", "flip": False},
        {"mixing": Mixing(0.2, 1.0, 0.5)},
        {"image_size": ImageSizeSchedule.parse("0:8,1:16")},
        {"global_batch_size": BatchSizeSchedule.parse("0:16,2:32")},
    ],
)
def test_batches_are_of_the_same_kind_as_real_ones(more, digits_dir):
    arguments = {"global_batch_size": 16, "image_size": 8} | more
    real = TrainingInput(digits_dir, **arguments)
    made = SyntheticTrainingInput("", **arguments, data=DATA)
    for context in (ALONE, SECOND_OF_TWO):
        spec = made.dataset(context, 0, 2).element_spec
        assert spec == real.dataset(context, 0, 2).element_spec
    if made.shape_changes:
        last = made.dataset(ALONE, made.shape_changes[0], made.shape_changes[0] + 1)
        expected = [16, 16, 16, 3] if "image_size" in more else [32, 8, 8, 3]
        assert last.element_spec["image"].shape == expected


def test_the_same_batch_comes_at_every_step_of_any_start_and_differs_between_workers():
    data = SyntheticTrainingInput("", 16, image_size=8, data=DATA)

    def images(context, first):
        return [
            b["image"] for b in data.dataset(context, first, first + 3).take(3).as_numpy_iterator()
        ]

    first, *others = images(ALONE, 0) + images(ALONE, 7)
    assert len(np.unique(first)) > 100
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert not np.array_equal(images(SECOND_OF_TWO, 0)[0], first[:8])
    labels = next(data.dataset(ALONE, 0, 1).as_numpy_iterator())["label"]
    assert set(labels) <= set(range(5))


@pytest.mark.parametrize(
    "contexts", [[ALONE], [tf.distribute.InputContext(2, i, 2) for i in (0, 1)]]
)
def test_evaluation_counts_each_image_once(contexts, digits_dir):
    data = SyntheticEvaluationInput("", 16, image_size=8, data=DATA)
    real = EvaluationInput(digits_dir, 16, image_size=8)
    assert data.num_examples == 40
    weights = 0
    for context in contexts:
        made = data.dataset(context)
        assert made.element_spec == real.dataset(context).element_spec
        weights += sum(b["weight"].sum() for b in made.take(data.steps).as_numpy_iterator())
    assert weights == 40


def test_the_description_tells_numbers_apart():
    assert SyntheticData.parse("synthetic") == SyntheticData(1_281_167, 1000)
    assert SyntheticData.parse("synthetic:50") == SyntheticData(50, 1000)
    info = DATA.info()
    assert (info.num_classes, info.splits["train"].num_examples) == (5, 1000)
    others = [dataclasses.replace(DATA, num_classes=6), dataclasses.replace(DATA, num_examples=7)]
    assert len({one.info().fingerprint for one in (DATA, *others)}) == 3

"""Batches with every augmentation: a function of seed and position, on any number of pipelines."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.paths import ROOT
from tf_lars.data.image_input import EvaluationInput, TrainingInput, to_device_batch
from tf_lars.data.mixing import Mixing
from tf_lars.data.prepare.preparation import PrepareConfig, prepare_images
from tf_lars.errors import InputError

CLASSES, TRAINING = 4, 40
EVERYTHING = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0, random_erasing_probability=0.5)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared folder of pictures, each of another shape."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", TRAINING), ("val", 8)):
        for i in range(count):
            path = root / "raw" / split / f"class{i % CLASSES}" / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((44 + i, 80 - i), Image.Resampling.BICUBIC)
            picture.save(path, quality=95)
    prepare_images(
        PrepareConfig(str(root / "raw"), str(root / "data"), train_shards=3, num_processes=1)
    )
    return str(root / "data")


@pytest.fixture(
    params=[
        ("none", EVERYTHING),
        ("reference", Mixing(mixup_alpha=0.2)),
        ("pad_crop", Mixing(mixup_alpha=0.2)),
        ("randaugment", EVERYTHING),
        pytest.param(("augmix", Mixing(cutmix_alpha=1.0)), marks=pytest.mark.slow),
    ],
    ids=lambda param: param[0],
)
def make(request, data_dir):
    """Returns a function from a seed to training data with a global batch of 8."""
    augmentation, mixing = request.param
    if augmentation in ("randaugment", "augmix"):
        pytest.importorskip("keras_cv", reason="needs keras-cv (extra `keras-cv`)")
    return lambda seed=0: TrainingInput(
        data_dir, 8, 24, augmentation, seed=seed, randaugment_magnitude=5.0, mixing=mixing
    )


def _batches(data, first_step, last_step, pipeline=0, pipelines=1, replicas=1):
    context = tf.distribute.InputContext(pipelines, pipeline, replicas)
    dataset = data.dataset(context, first_step, last_step)
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for name, value in batch.items():
            np.testing.assert_array_equal(other[name], value)


def _on_device(batches):
    prepared = [to_device_batch(batch, CLASSES)[:2] for batch in batches]
    return [{"x": x.numpy(), "y": y.numpy()} for x, y in prepared]


def test_two_epochs_are_the_same_again_and_others_with_another_seed(make):
    run = _batches(make(), 0, 10)
    _assert_equal(_batches(make(), 0, 10), run)
    _assert_equal(_on_device(_batches(make(), 0, 10)), _on_device(run))
    other = _batches(make(seed=1), 0, 10)
    assert any((a["image"] != b["image"]).any() for a, b in zip(run, other, strict=True))


def test_a_run_that_goes_on_in_the_middle_sees_the_remaining_batches(make):
    whole, rest = _batches(make(), 0, 10), _batches(make(), 7, 10)
    _assert_equal(rest, whole[7:])
    _assert_equal(_on_device(rest), _on_device(whole[7:]))


def test_several_pipelines_make_the_same_examples_with_the_same_draws(make):
    pipelines = 4
    alone = _batches(make(), 0, 10)
    shares = [_batches(make(), 0, 10, k, pipelines, pipelines) for k in range(pipelines)]
    together = [
        {name: np.concatenate([share[name] for share in step]) for name in step[0]}
        for step in zip(*shares, strict=True)
    ]
    _assert_equal(together, alone)


def test_mixed_batches_depend_on_the_replicas_and_not_on_the_processes(make):
    """Compares two replicas of one process with two processes of one replica each."""
    one_process = _batches(make(), 0, 10, replicas=2)
    shares = [_batches(make(), 0, 10, k, 2, 2) for k in range(2)]
    turns = [batch for step in zip(*shares, strict=True) for batch in step]
    _assert_equal(_on_device(turns), _on_device(one_process))


def test_labels_add_up_to_one(make):
    for batch in _on_device(_batches(make(), 0, 5)):
        np.testing.assert_allclose(batch["y"].sum(1), 1, rtol=1e-6)
        assert batch["y"].min() >= 0
        assert batch["x"].min() >= 0
        assert batch["x"].max() <= 255


def test_evaluation_does_not_mix(data_dir):
    (batch,) = _batches_of_evaluation(data_dir)
    assert set(batch) == {"image", "label", "weight"}


def _batches_of_evaluation(data_dir):
    return list(EvaluationInput(data_dir, 8, 24).dataset(tf.distribute.InputContext(1, 0, 1)))


def test_a_batch_of_one_cannot_be_mixed(data_dir):
    data = TrainingInput(data_dir, 2, 24, mixing=EVERYTHING)
    with pytest.raises(InputError, match="at least 2 examples on each device"):
        data.dataset(tf.distribute.InputContext(1, 0, 2), 0, 1)


@pytest.mark.slow
def test_a_reference_run_does_not_import_keras_cv(data_dir):
    program = f"""
import sys
import tensorflow as tf
from tf_lars.data.image_input import TrainingInput, to_device_batch
from tf_lars.data.mixing import Mixing
data = TrainingInput({data_dir!r}, 8, 24, mixing=Mixing(0.2, 1.0, 0.5))
for batch in data.dataset(tf.distribute.InputContext(1, 0, 1), 0, 2):
    to_device_batch(batch, {CLASSES})
assert "keras_cv" not in sys.modules
assert "tf_lars.data.augment" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

"""Training each kind of model: all weights change, logits are float32, replicas agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from tf_lars.distribute.batch_norm import BatchNormStatistics
from tf_lars.errors import InputError

LARGE = [("resnet18", 32), ("keras_cv/ResNet18V2Backbone", 32)]
LARGER = [("resnet50", 32), ("keras.applications/MobileNetV2", 32)]
KINDS = [
    ("small_resnet8", 8),
    ("alexnet", 64),
    ("alexnet_bn", 64),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in LARGE),
    *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in LARGER),
]


def _create(name, image_size, **arguments):
    if name.startswith("keras_cv/"):
        pytest.importorskip("keras_cv", reason="needs the extra `keras-cv`")
    return models.create(name, num_classes=10, image_size=image_size, **arguments)


def _batch(image_size, examples=16):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (examples, image_size, image_size, 3)).astype("uint8")
    return images, np.eye(10, dtype="float32")[random.integers(0, 10, examples)]


@pytest.mark.parametrize(("name", "image_size"), KINDS)
def test_logits_are_float32_in_mixed_precision_and_weights_too(name, image_size, mixed_bfloat16):
    model = _create(name, image_size)
    logits = model(_batch(image_size)[0])
    assert (logits.shape, logits.dtype, model.output.dtype) == ((16, 10), "float32", "float32")
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "image_size"), KINDS)
def test_training_changes_all_weights(name, image_size, jit_compile):
    if jit_compile and name not in ("small_resnet8", "alexnet_bn"):
        pytest.skip("XLA takes long to compile for a CPU, so only one model of each kind is run")
    model = _create(name, image_size)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    before = model.get_weights()
    for _ in range(3):  # blocks whose last gamma is zero do not learn in the first step
        model.train_on_batch(*_batch(image_size))
    for weight, old in zip(model.weights, before, strict=True):
        if weight.dtype == "float32":
            new = weight.numpy()
            assert np.isfinite(new).all(), weight.path
            assert (new != old).any(), weight.path


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("small_resnet8", 8),
        ("alexnet_bn", 64),
        pytest.param("keras.applications/MobileNetV2", 32, marks=pytest.mark.exhaustive),
    ],
)
def test_synchronised_and_grouped_batch_norm_see_the_batch_of_all_replicas(
    name, image_size, mirrored
):
    images, _ = _batch(image_size)
    images = images.astype("float32") * np.linspace(0.1, 1, 16).reshape(
        16, 1, 1, 1
    )  # unlike halves

    def changes(strategy, **arguments):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = _create(name, image_size, **arguments)
        replicas = strategy.num_replicas_in_sync
        parts = np.split(images.astype("float32"), replicas)
        values = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )
        moving = [weight for weight in model.non_trainable_weights if "moving" in weight.path]
        before = [weight.numpy() for weight in moving]
        strategy.run(tf.function(lambda part: model(part, training=True)), [values])
        if arguments:  # the statistics of all replicas, as a checkpoint holds them
            BatchNormStatistics(model, strategy, lambda x: x).average()
        return np.concatenate([w.numpy() - old for w, old in zip(moving, before, strict=True)])

    together = changes(tf.distribute.get_strategy())
    fused = changes(tf.distribute.get_strategy(), fused_batch_norm=True)
    assert np.linalg.norm(fused - together) < 1e-4 * np.linalg.norm(together)
    synchronised = changes(mirrored, sync_batch_norm=True)
    assert np.linalg.norm(synchronised - together) < 1e-4 * np.linalg.norm(together)
    group = changes(mirrored, batch_norm_group_size=16)
    assert np.linalg.norm(group - together) < 1e-4 * np.linalg.norm(together)
    fours = [
        changes(strategy, batch_norm_group_size=4)
        for strategy in (tf.distribute.get_strategy(), mirrored)
    ]
    assert np.linalg.norm(fours[1] - fours[0]) < 1e-4 * np.linalg.norm(fours[0])
    apart = changes(mirrored)
    assert np.linalg.norm(apart - together) > 1e-2 * np.linalg.norm(together)


@pytest.mark.parametrize("name", ["alexnet", "keras.applications/VGG16"])
def test_a_model_without_batch_norm_has_none_to_synchronise_group_or_fuse(name):
    with pytest.raises(InputError, match=f"--sync_batch_norm needs .*{name}"):
        _create(name, 64, sync_batch_norm=True)
    with pytest.raises(InputError, match=f"--batch_norm_group_size needs .*{name}"):
        _create(name, 64, batch_norm_group_size=4)
    with pytest.raises(InputError, match=f"--fused_batch_norm needs .*{name}"):
        _create(name, 64, fused_batch_norm=True)

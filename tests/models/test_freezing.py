"""Frozen layers: what matches is not trained, and batch normalisation there stands still."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models import freezing
from tests.helpers import training_cases
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import InputError


class Block(keras.layers.Layer):
    """A convolution and its normalisation."""

    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(4, 3)
        self.norm = keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return self.norm(self.conv(x), training=training)


class Net(keras.Model):
    """A subclassed network."""

    def __init__(self):
        super().__init__()
        self.blocks = [Block(), Block()]
        self.head = keras.layers.Dense(3)

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(tf.reduce_mean(x, [1, 2]))


def _net():
    keras.backend.clear_session()
    net = Net()
    net(tf.zeros([1, 8, 8, 3]))
    return net


SECOND_BLOCK = ("block_1/conv2d_1", "block_1/batch_normalization_1")


@pytest.mark.parametrize(
    ("pattern", "trained", "in_inference_mode"),
    [
        ("block/", {*SECOND_BLOCK, "dense"}, 1),
        ("block_1", {"block/conv2d", "block/batch_normalization", "dense"}, 1),
        # The path of a layer, not of a variable.
        ("block/batch_normalization$", {"block/conv2d", *SECOND_BLOCK, "dense"}, 1),
        ("block", {"dense"}, 2),
    ],
)
def test_layers_are_found_by_their_path_in_any_kind_of_model(pattern, trained, in_inference_mode):
    net = _net()
    freezing.freeze(net, pattern)
    found = {v.path.rpartition("/")[0].removeprefix("net/") for v in net.trainable_variables}
    assert found == trained
    norms = [block.norm for block in net.blocks]
    assert sum(not norm.trainable for norm in norms) == in_inference_mode


def test_single_variables_are_frozen_too():
    net = _net()
    freezing.freeze(net, "bias$|gamma$")
    assert {v.name for v in net.trainable_variables} == {"kernel", "beta"}
    assert all(block.norm.trainable for block in net.blocks)  # its statistics still move
    assert freezing.frozen_parameters(net) == 4 + 4 + 4 + 4 + 3
    assert models.describe(net, 8).frozen_parameters == 19


@pytest.mark.parametrize(
    ("pattern", "what"), [("nowhere", "none"), ("moving_", "none"), (".", "all"), ("", "all")]
)
def test_an_expression_that_leaves_nothing_or_everything_is_refused(pattern, what):
    with pytest.raises(InputError, match=f"found in those of {what} of the 10 trainable"):
        freezing.freeze(_net(), pattern)


def test_frozen_layers_stay_as_they_are_on_two_replicas(mirrored):
    def build():
        model = training_cases.small_resnet()
        freezing.freeze(model, "^(stem|stage1)_")
        return model

    trainer = training_cases.trainer(mirrored, build)
    model = trainer.model

    def values(frozen):
        chosen = [w for w in model.weights if w.path.startswith(("stem", "stage1")) == frozen]
        return [w.numpy() for w in chosen]

    before, others = values(True), values(False)
    images = training_cases.images(256)
    trainer.fit(
        ArrayTrainingInput(*images, training_cases.BATCH),
        epochs=2,
        batch_norm_examples=256,  # their statistics are not estimated anew either
    )
    trainer.evaluate(ArrayEvaluationInput(*training_cases.images(64), 64))
    assert len(before) == 15
    for one, other in zip(before, values(True), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.any(a != b) for a, b in zip(others, values(False), strict=True))
    # No velocity of theirs: beside those of the others, the steps and the learning rate.
    kept = sum(np.prod(v.shape) for v in model.optimizer.variables if v.shape.rank)
    assert kept == sum(np.prod(w.shape) for w in model.trainable_weights)

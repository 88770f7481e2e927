"""Batch normalisation in groups: the same on any number of replicas, and as slices would be."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import batch_norm_cases, training_cases, two_processes
from tests.helpers.batch_norm_cases import BATCH, grouped, network, sliced, trained
from tests.helpers.paths import ROOT
from tf_lars.data import order
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.distribute.grouped_batch_norm import (
    GroupedBatchNormalization,
    group_batch_norm,
    group_sizes,
    ungroup_batch_norm,
)
from tf_lars.errors import InputError
from tf_lars.training import micro_batch

ONE = tf.distribute.get_strategy()


@pytest.fixture(scope="module")
def expected():
    """Returns a function from the size of a group to the results of slices in one process."""
    results = {}

    def of(group_size):
        if group_size not in results:
            results[group_size] = trained(ONE, sliced(group_size))
        return results[group_size]

    return of


# Four replicas sum in another order than two slices: 2.5e-5 apart on one CPU (Emerald Rapids).
PAIRS_RTOL = 5e-5


def _assert_same(results, expected, rtol=1e-5):
    training_cases.assert_same_training(results, expected, rtol)
    assert results["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)


@pytest.mark.parametrize("group_size", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_groups_within_a_device_train_like_slices(group_size, mirrored, expected):
    _assert_same(trained(mirrored, grouped(group_size)), expected(group_size))


def test_micro_batches_of_whole_groups_learn_the_same(expected):
    results = trained(ONE, grouped(16), micro_batch_size=32)
    learned = {name: value for name, value in expected(16).items() if name.startswith("w")}
    training_cases.assert_same_training(results, learned, 1e-5)


def test_a_group_of_all_replicas_trains_like_slices_and_like_synchronised_layers(
    mirrored, expected
):
    results = trained(mirrored, grouped(BATCH))
    _assert_same(results, expected(BATCH))
    _assert_same(results, trained(mirrored, batch_norm_cases.synchronised))


@pytest.mark.slow
def test_groups_of_two_among_four_replicas_train_like_slices(expected, tmp_path):
    results = batch_norm_cases.on_four_cpus(tmp_path, "pairs")["pairs"]
    _assert_same(results, expected(BATCH // 2), PAIRS_RTOL)


@pytest.mark.exhaustive
def test_groups_of_two_among_four_replicas_train_a_resnet_like_one_process(tmp_path):
    case = "resnet of pairs"
    results = batch_norm_cases.on_four_cpus(tmp_path, case)[case]
    _assert_same(results, trained(ONE, grouped(BATCH // 2, training_cases.small_resnet)))


@pytest.mark.parametrize(
    ("workers", "case", "size"),
    [
        pytest.param(2, "whole", BATCH, marks=pytest.mark.slow),
        pytest.param(4, "pairs", 64, marks=pytest.mark.exhaustive),
    ],
)
def test_groups_over_worker_processes_train_like_slices(workers, case, size, expected, tmp_path):
    cases = [case, "synchronised"] if case == "whole" else [case]
    found = two_processes.run("tests.helpers.batch_norm_cases", tmp_path, *cases, workers=workers)
    results = [batch_norm_cases.by_case(one) for one in found]
    _assert_same(results[0][case], expected(size), PAIRS_RTOL if case == "pairs" else 1e-5)
    for other in results[1:]:
        training_cases.assert_same_bits(other[case], results[0][case])
    if case == "whole":
        _assert_same(results[0][case], results[0]["synchronised"])


@pytest.mark.parametrize("group_size", [16, BATCH])
def test_estimated_statistics_are_the_means_over_the_groups(group_size, mirrored):
    results = batch_norm_cases.estimated(mirrored, grouped(group_size))
    plain = batch_norm_cases.estimated(
        ONE, network, micro_batch_size=None if group_size == BATCH else group_size
    )
    training_cases.assert_close(results, plain, 1e-5)


def test_large_means_lose_no_digits_between_replicas(mirrored):
    x = np.random.default_rng(0).normal(1000, 1, (64, 3)).astype("float32")
    with mirrored.scope():
        layer = GroupedBatchNormalization(64, momentum=0.0)
        layer.build((None, 3))
    parts = mirrored.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(x, 2)[context.replica_id_in_sync_group])
    )
    mirrored.run(tf.function(lambda part: layer(part, training=True)), (parts,))
    expected = x.astype("float64").var(axis=0)
    np.testing.assert_allclose(layer.moving_variance.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(8, 6), (8, 5, 6), (8, 4, 5, 6), (8, 2, 4, 5, 6)])
def test_a_group_of_all_examples_equals_kerass_own_layer(shape, axis):
    x = np.random.default_rng(0).normal(5, 3, shape).astype("float32")
    found = []
    for kind, more in (
        (keras.layers.BatchNormalization, {}),
        (GroupedBatchNormalization, {"group_size": 8}),
    ):
        layer = kind(axis=axis, scale=axis == 1, center=axis == -1, **more)
        outputs = layer(x, training=True)
        found.append([outputs, *layer.get_weights(), layer(x, training=False)])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_mixed_precision_normalises_in_float32():
    x = np.random.default_rng(0).normal(100, 1, (8, 4, 4, 3))
    layer = GroupedBatchNormalization(4, dtype="mixed_bfloat16")
    outputs = layer(tf.cast(x, tf.bfloat16), training=True)
    assert outputs.dtype == "bfloat16"
    assert np.var(tf.cast(outputs[:4], tf.float32)) == pytest.approx(1, abs=0.02)
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_images_of_any_size_pass_through_xla():
    layer = GroupedBatchNormalization(4)
    layer.build((None, None, None, 3))
    signature = tf.TensorSpec([8, None, None, 3])
    run = tf.function(
        lambda x: layer(x, training=True), jit_compile=True, input_signature=[signature]
    )
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 6, 3)).astype("float32")
    np.testing.assert_allclose(run(x), layer(x, training=True), rtol=1e-4, atol=1e-5)


def test_weights_and_names_are_those_of_the_plain_model():
    plain, other = network(), network()
    names = [weight.path for weight in other.weights]
    group_batch_norm(other, 16)
    assert [weight.path for weight in other.weights] == names
    assert [w.shape for w in other.weights] == [w.shape for w in plain.weights]
    other.set_weights(plain.get_weights())
    x = training_cases.images(16)[0].astype("float32")
    np.testing.assert_array_equal(other(x, training=False), plain(x, training=False))
    assert group_sizes(other) == {16}
    ungroup_batch_norm(other)
    assert group_sizes(other) == set()


LOAD = """
import sys
import keras
import tf_lars
kinds = {type(layer).__name__ for layer in keras.models.load_model(sys.argv[1])._flatten_layers()}
assert "GroupedBatchNormalization" in kinds, kinds
"""


@pytest.mark.slow
def test_a_file_loads_with_this_package_and_an_ungrouped_one_without(tmp_path):
    path, model = str(tmp_path / "model.keras"), grouped(16)()
    model.save(path)
    subprocess.run([sys.executable, "-c", LOAD, path], cwd=ROOT, check=True, timeout=300)
    ungroup_batch_norm(model)
    model.save(path)
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json").decode()
    assert "BatchNormalization" in config
    assert "tf_lars" not in config
    assert "group_size" not in config


def test_frozen_layers_form_no_groups():
    layer = GroupedBatchNormalization(64)
    layer.trainable = False
    x = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(layer(x, training=True), x, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GroupedBatchNormalization(0), "`group_size` must be a positive integer"),
        (
            lambda: GroupedBatchNormalization(3)(np.ones((8, 2)), training=True),
            "groups of 3 on 1 replicas with 8 examples each",
        ),
        (
            lambda: GroupedBatchNormalization(16)(np.ones((8, 2)), training=True),
            "groups of 16 on 1 replicas",
        ),
        (
            lambda: GroupedBatchNormalization(4)(
                np.ones((8, 5, 2)), training=True, mask=np.ones((8, 5), bool)
            ),
            "Received: a mask",
        ),
        (
            lambda: tf.function(
                lambda x: GroupedBatchNormalization(4)(x, training=True)
            ).get_concrete_function(tf.TensorSpec([None, 2])),
            "static size",
        ),
    ],
)
def test_what_cannot_be_grouped_is_refused_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_other_kinds_of_batch_norm_are_refused():
    class Own(keras.layers.BatchNormalization):
        pass

    model = keras.Sequential([keras.Input((4,)), Own(name="own")])
    with pytest.raises(InputError, match="Received: 'own' of the type Own"):
        group_batch_norm(model, 4)


@pytest.mark.parametrize(
    ("size", "share", "replicas", "micro"),
    [(16, 64, 1, None), (64, 64, 8, None), (128, 64, 8, None), (512, 64, 8, None), (8, 64, 2, 32)],
)
def test_groups_that_fit_are_accepted(size, share, replicas, micro):
    order.check_batch_norm_group(size, share=share, replicas=replicas, micro_batch_size=micro)


@pytest.mark.parametrize(
    ("size", "share", "replicas", "micro", "message"),
    [
        (48, 64, 1, None, r"divide the 64 examples that each device .*of 48\. The nearest is 64"),
        (192, 64, 8, None, r"or be a multiple of them that divides the 512 .*nearest is 256"),
        (24, 64, 8, 32, r"divide the 32 examples .* The nearest is 32"),
        (128, 64, 8, 32, r"must fit into a micro-batch\. Received: groups of 128"),
    ],
)
def test_groups_that_do_not_fit_are_refused(size, share, replicas, micro, message):
    with pytest.raises(InputError, match=message):
        order.check_batch_norm_group(size, share=share, replicas=replicas, micro_batch_size=micro)


@pytest.mark.parametrize(
    ("group_size", "arguments", "told"),
    [
        (64, {"micro_batch_size": "auto"}, "Received: micro-batches"),
        (64, {"jit_compile": True}, "Received: jit_compile"),
        (24, {}, "A group of batch normalisation must divide the 32 examples"),
    ],
)
def test_the_trainer_checks_the_groups_of_its_model(group_size, arguments, told, mirrored):
    t = training_cases.trainer(mirrored, grouped(group_size), **arguments)
    with pytest.raises(InputError, match=told):
        t.fit(ArrayTrainingInput(*training_cases.images(64), 64), epochs=1)


def test_automatic_micro_batches_hold_whole_groups(monkeypatch):
    t = training_cases.trainer(ONE, grouped(16), micro_batch_size="auto")
    tried = []

    def fits(step, strategy, spec):
        tried.append(step.micro_batch_size)
        return tried[-1] == 16

    monkeypatch.setattr(micro_batch, "_fits", fits)
    t.fit(ArrayTrainingInput(*training_cases.images(96), 96), epochs=1)
    assert tried == [96, 48, 32, 16]
    monkeypatch.setattr(micro_batch, "_fits", lambda *_: False)
    t = training_cases.trainer(ONE, grouped(16), micro_batch_size="auto")
    with pytest.raises(InputError, match="the 16 examples that batch normalisation normalises"):
        t.fit(ArrayTrainingInput(*training_cases.images(96), 96), epochs=1)

"""Options of the training loop: half precision, averages, micro-batches that fit, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import training_cases as cases
from tf_lars.data.arrays import ArrayTrainingInput
from tf_lars.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Results by (case, rank), from two processes."""
    return cases.run_two_workers("options", tmp_path_factory.mktemp("two_workers"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Results by case, from this process on one device."""
    directory = str(tmp_path_factory.mktemp("alone"))
    return cases.run("options", tf.distribute.get_strategy(), directory)


@pytest.fixture(scope="module")
def on_two_cpus(mirrored, tmp_path_factory):
    """Results by case, from MirroredStrategy on two logical CPUs."""
    return cases.run("options", mirrored, str(tmp_path_factory.mktemp("mirrored")))


def test_the_largest_micro_batch_that_fits_is_found(alone, on_two_cpus, two_workers):
    for results in (
        alone["fitted_micro_batch"],
        on_two_cpus["fitted_micro_batch"],
        two_workers["fitted_micro_batch", 0],
    ):
        expected = {name: alone["equality"][name] for name in results if name != "halved"}
        cases.assert_same_training(results, expected)
        assert results["halved"]


def test_gradients_rounded_on_their_way_train_nearly_the_same(alone, on_two_cpus, two_workers):
    for results in (on_two_cpus["reduced_in_bfloat16"], two_workers["reduced_in_bfloat16", 0]):
        expected = alone["reduced_in_bfloat16"]  # one replica, nothing to reduce
        cases.assert_close(results, expected, 0.03)
        assert any(np.any(results[name] != value) for name, value in expected.items())


def test_averaging_leaves_training_as_it_is(alone, on_two_cpus, two_workers):
    cases.assert_same_training(on_two_cpus["averaged"], alone["averaged"])
    cases.assert_same_training(two_workers["averaged", 0], alone["averaged"])


def test_the_average_of_the_weights_is_what_is_evaluated(alone, on_two_cpus, two_workers):
    for results in (alone["averaged"], on_two_cpus["averaged"], two_workers["averaged", 1]):
        average = {k.removeprefix("average "): v for k, v in results.items() if "average" in k}
        model = cases.plain_model()
        for variable, value in zip(model.weights, average.values(), strict=True):
            variable.assign(value)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, y = cases.images(50, seed=1)
        assert results["val_loss"] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
        assert all(np.any(results[name] != value) for name, value in average.items())


def test_float16_lowers_its_scale_and_then_trains(alone, on_two_cpus, two_workers):
    for results in (
        alone["half_precision"],
        on_two_cpus["half_precision"],
        two_workers["half_precision", 1],
    ):
        position, steps = results["steps"]
        assert position == 40
        assert 0 < results["skipped"] == position - steps < 20
        assert results["losses"][1] < results["losses"][0]


def test_a_model_of_which_no_example_fits_is_refused():
    t = cases.trainer(
        tf.distribute.get_strategy(),
        lambda: cases.limited_model(0),
        micro_batch_size="auto",
    )
    with pytest.raises(InputError, match="one example must fit"):
        t.fit(ArrayTrainingInput(*cases.images(64), 1), epochs=1)


def test_replicas_that_wait_for_each_other_cannot_try_what_fits():
    t = cases.trainer(
        tf.distribute.get_strategy(),
        lambda: cases.small_resnet(sync_batch_norm=True),
        micro_batch_size="auto",
    )
    with pytest.raises(InputError, match="Name the size"):
        t.fit(ArrayTrainingInput(*cases.images(64), 8), epochs=1)


@pytest.mark.parametrize("build", [cases.plain_model, cases.small_resnet])
def test_jit_compile_gives_the_same_steps(build):
    results = []
    for jit_compile in (False, True):
        t = cases.trainer(tf.distribute.get_strategy(), build, jit_compile=jit_compile)
        t.fit(ArrayTrainingInput(*cases.images(320), cases.BATCH), epochs=4)
        results.append(cases.weights(t.model))
    cases.assert_close(results[1], results[0], 1e-4)


def test_replicas_compiled_with_xla_take_the_same_steps(alone, on_two_cpus, two_workers):
    for results in (alone["compiled"], on_two_cpus["compiled"], two_workers["compiled", 1]):
        shared = {name: alone["equality"][name] for name in results}
        cases.assert_close(results, shared, 1e-4)


@pytest.mark.parametrize("case", cases.names("options"))
def test_both_workers_end_with_the_same_bits(case, two_workers):
    cases.assert_same_bits(two_workers[case, 1], two_workers[case, 0])

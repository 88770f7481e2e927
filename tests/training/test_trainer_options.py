"""Options of the training loop: clipping, statistics, resumption, half precision, averages, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import InputError
from tf_lars.training.checkpoints import CheckpointStore

pytestmark = pytest.mark.slow

GROUP = "more"


def test_the_largest_micro_batch_that_fits_is_found(alone, on_two_cpus, two_workers):
    for results in (
        alone["fitted_micro_batch"],
        on_two_cpus["fitted_micro_batch"],
        two_workers["fitted_micro_batch", 0],
    ):
        expected = {name: alone["equality"][name] for name in results if name != "halved"}
        training_cases.assert_same_training(results, expected)
        assert results["halved"]


def test_gradients_rounded_on_their_way_train_nearly_the_same(alone, on_two_cpus, two_workers):
    for results in (on_two_cpus["reduced_in_bfloat16"], two_workers["reduced_in_bfloat16", 0]):
        expected = alone["reduced_in_bfloat16"]  # one replica, nothing to reduce
        training_cases.assert_close(results, expected, 0.03)
        assert any(np.any(results[name] != value) for name, value in expected.items())


@pytest.mark.parametrize("case", ["averaged", "clipping"])
def test_two_replicas_train_like_one_process_on_the_whole_batch(
    case, alone, on_two_cpus, two_workers
):
    training_cases.assert_same_training(on_two_cpus[case], alone[case])
    training_cases.assert_same_training(two_workers[case, 0], alone[case])


def test_the_average_of_the_weights_is_what_is_evaluated(alone, on_two_cpus, two_workers):
    for results in (alone["averaged"], on_two_cpus["averaged"], two_workers["averaged", 1]):
        average = {k.removeprefix("average "): v for k, v in results.items() if "average" in k}
        model = training_cases.plain_model()
        for variable, value in zip(model.weights, average.values(), strict=True):
            variable.assign(value)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, y = training_cases.images(50, seed=1)
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
    t = training_cases.trainer(
        tf.distribute.get_strategy(),
        lambda: training_cases.limited_model(0),
        micro_batch_size="auto",
    )
    with pytest.raises(InputError, match="one example must fit"):
        t.fit(ArrayTrainingInput(*training_cases.images(64), 1), epochs=1)


@pytest.mark.parametrize("build", [training_cases.plain_model, training_cases.small_resnet])
def test_jit_compile_gives_the_same_steps(build):
    results = []
    for jit_compile in (False, True):
        t = training_cases.trainer(tf.distribute.get_strategy(), build, jit_compile=jit_compile)
        t.fit(ArrayTrainingInput(*training_cases.images(320), training_cases.BATCH), epochs=4)
        results.append(training_cases.weights(t.model))
    training_cases.assert_close(results[1], results[0], 1e-4)


def test_replicas_compiled_with_xla_take_the_same_steps(alone, on_two_cpus, two_workers):
    for results in (alone["compiled"], on_two_cpus["compiled"], two_workers["compiled", 1]):
        shared = {name: alone["equality"][name] for name in results}
        training_cases.assert_close(results, shared, 1e-4)


def test_the_clip_holds_for_the_reduced_gradient(alone):
    start = training_cases.weights(
        training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model).model
    )
    moved = sum(np.sum((alone["clipping"][name] - before) ** 2) for name, before in start.items())
    assert 0 < np.sqrt(moved) <= 20 * 0.5 * 0.01 * 1.0001


def test_estimated_statistics_are_the_mean_over_the_batches(alone):
    """Compares the first layer's mean with its definition: all examples weigh the same."""
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.small_resnet)
    t.fit(ArrayTrainingInput(*training_cases.images(256), training_cases.BATCH), epochs=1)
    stem = keras.Model(t.model.input, t.model.get_layer("stem_conv").output)
    features = stem(training_cases.images(256)[0]).numpy()
    name = next(
        k for k in alone["batch_norm"] if k.startswith("estimated") and "stem_bn/moving_mean" in k
    )
    np.testing.assert_allclose(
        alone["batch_norm"][name], features.mean((0, 1, 2)), rtol=1e-3, atol=1e-4
    )


def test_statistics_of_frozen_layers_stay_when_others_are_estimated(mirrored):
    def model():
        frozen = keras.layers.BatchNormalization(trainable=False)
        body = [frozen, keras.layers.BatchNormalization()]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input((8, 8, 3)), *body, *head])

    t = training_cases.trainer(mirrored, model)
    frozen, other = t.model.layers[:2]
    frozen.moving_mean.assign(np.full(3, 7.0))
    frozen.moving_variance.assign(np.full(3, 9.0))
    t.fit(
        ArrayTrainingInput(*training_cases.images(64), 64),
        epochs=1,
        validation_data=ArrayEvaluationInput(*training_cases.images(10), 10),
        batch_norm_examples=64,
    )
    np.testing.assert_allclose(frozen.moving_mean.numpy(), 7.0)
    np.testing.assert_allclose(frozen.moving_variance.numpy(), 9.0)
    assert np.all(other.moving_mean.numpy() != 0)


@pytest.mark.parametrize("strategy", ["alone", "mirrored"])
def test_statistics_are_estimated_of_the_parts_that_training_normalises(strategy, request):
    strategy = (
        tf.distribute.get_strategy() if strategy == "alone" else request.getfixturevalue(strategy)
    )

    def model():
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization(), *head])

    t = training_cases.trainer(strategy, model, micro_batch_size=8)
    x, y = training_cases.images(256)
    for layer in t.model.layers[:1]:  # a NaN that must not survive: 0 * NaN is NaN
        layer.moving_mean.assign(np.full(3, np.nan))
    validation = ArrayEvaluationInput(x[:10], y[:10], 10)
    t.fit(
        ArrayTrainingInput(x, y, training_cases.BATCH),
        epochs=1,
        validation_data=validation,
        batch_norm_examples=256,
    )
    # The variance within parts of 8 examples is the total less the variance of their means.
    variances = t.model.layers[0].moving_variance.numpy()
    grey = x.astype(np.float64)[..., 0]
    assert variances == pytest.approx([np.var(grey)] * 3, rel=0.02)
    assert np.all(variances < np.var(grey))
    means = t.model.layers[0].moving_mean.numpy()
    assert means == pytest.approx([np.mean(grey)] * 3, rel=1e-5)


def test_estimating_statistics_leaves_the_weights_alone(alone, on_two_cpus, two_workers):
    for results in (alone["batch_norm"], on_two_cpus["batch_norm"], two_workers["batch_norm", 1]):
        assert results["weights stay"]


@pytest.mark.parametrize("where", ["alone", "on_two_cpus", "two_workers"])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(where, request):
    results = request.getfixturevalue(where)
    results = results["resumption", 0] if where == "two_workers" else results["resumption"]
    names = [name for name in results if name.startswith("w")]
    assert names
    for name in names:
        np.testing.assert_array_equal(results[name], results[f"undisturbed {name}"], err_msg=name)


def test_batches_may_change_their_shape_between_epochs(tmp_path):
    class Data(ArrayTrainingInput):
        shape_changes = (5, 10)

        def dataset(self, context, first_step, last_step):
            assert not any(first_step < change < last_step for change in self.shape_changes)
            size = 4 + 2 * sum(change <= first_step for change in self.shape_changes)
            dataset = super().dataset(context, first_step, last_step)
            return dataset.map(lambda x, y: (x[:, :size, :size], y))

    def model():
        return keras.Sequential(
            [
                keras.Input((None, None, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.BatchNormalization(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(10),
            ]
        )

    def run(name, callbacks=()):
        t = training_cases.trainer(tf.distribute.get_strategy(), model)
        history = t.fit(
            Data(*training_cases.images(320), training_cases.BATCH),
            epochs=4,
            validation_data=ArrayEvaluationInput(*training_cases.images(10), 10),
            batch_norm_examples=128,
            callbacks=callbacks,
            checkpoints=CheckpointStore(str(tmp_path / name), {}),
        )
        return t, history

    undisturbed, history = run("undisturbed")
    assert undisturbed._now.loop.tracing_count == 3
    assert [h["step"] for h in history] == [5, 10, 15, 20]
    run("stopped", [training_cases.StopAt(epoch=2)])
    resumed, _ = run("stopped")
    for name, value in training_cases.weights(undisturbed.model).items():
        np.testing.assert_array_equal(training_cases.weights(resumed.model)[name], value)


def test_the_micro_batch_is_tried_with_the_largest_images(monkeypatch):
    class Data(ArrayTrainingInput):
        shape_changes = (5, 10)

        def dataset(self, context, first_step, last_step):
            size = {0: 4, 5: 8, 10: 6}[max(c for c in (0, 5, 10) if c <= first_step)]
            dataset = super().dataset(context, first_step, last_step)
            return dataset.map(lambda x, y: (x[:, :size, :size], y))

    tried = []

    def largest_that_fits(step, model, strategy, spec, share):
        tried.append(spec[0].shape)
        return share

    monkeypatch.setattr("tf_lars.training.micro_batch.largest_that_fits", largest_that_fits)
    build = lambda: keras.Sequential(  # noqa: E731
        [
            keras.Input((None, None, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    t = training_cases.trainer(tf.distribute.get_strategy(), build, micro_batch_size="auto")
    t.fit(Data(*training_cases.images(320), training_cases.BATCH), epochs=1)
    assert tried == [(64, 8, 8, 3)]


@pytest.mark.parametrize("case", training_cases.names(GROUP))
def test_both_workers_end_with_the_same_bits(case, two_workers):
    training_cases.assert_same_bits(two_workers[case, 1], two_workers[case, 0])

"""The training loop: one device, two logical CPUs and two real processes give the same result."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tf_lars import Trainer
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.errors import InputError
from tf_lars.training.checkpoints import CheckpointStore

GROUP = "steps"


@pytest.mark.parametrize(
    ("case", "rtol"),
    [
        ("equality", 1e-6),
        ("ramped", 1e-6),
        ("synchronised", 1e-5),
        ("not_finite", 1e-6),
    ],
)
def test_two_replicas_train_like_one_process_on_the_whole_batch(
    case, rtol, alone, on_two_cpus, two_workers
):
    training_cases.assert_same_training(on_two_cpus[case], alone[case], rtol)
    training_cases.assert_same_training(two_workers[case, 0], alone[case], rtol)


def test_micro_batches_add_up_to_the_same_steps(alone, on_two_cpus, two_workers):
    for results in (
        alone["micro_batches"],
        on_two_cpus["micro_batches"],
        two_workers["micro_batches", 0],
    ):
        training_cases.assert_same_training(results, alone["equality"])


def test_a_step_that_is_not_finite_on_one_replica_is_skipped_on_all(
    alone, on_two_cpus, two_workers
):
    for results in (alone["not_finite"], on_two_cpus["not_finite"], two_workers["not_finite", 1]):
        np.testing.assert_array_equal(results["skipped"], [1, 2])
        assert results["step"] == 10
        assert results["losses are finite"]
        assert all(np.all(np.isfinite(v)) for k, v in results.items() if k.startswith("w"))


def test_a_micro_batch_that_does_not_divide_is_refused():
    t = training_cases.trainer(
        tf.distribute.get_strategy(), training_cases.plain_model, micro_batch_size=7
    )
    with pytest.raises(InputError, match="must divide the 64 examples"):
        t.fit(ArrayTrainingInput(*training_cases.images(64), training_cases.BATCH), epochs=1)


@pytest.mark.parametrize("case", training_cases.names(GROUP))
def test_both_workers_end_with_the_same_bits(case, two_workers):
    training_cases.assert_same_bits(two_workers[case, 1], two_workers[case, 0])


def test_evaluation_counts_every_example_once(alone, on_two_cpus, two_workers):
    expected = alone["evaluation"]
    assert [expected[f"{n} examples"] for n in (1, 7, 64, 101)] == [1, 7, 64, 101]
    for results in (on_two_cpus["evaluation"], two_workers["evaluation", 0]):
        training_cases.assert_close(results, expected, 1e-5)


def test_evaluation_agrees_with_keras(alone):
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.small_resnet)
    x, y = training_cases.images(101, seed=2)
    expected = t.model.evaluate(x, y, batch_size=101, verbose=0, return_dict=True)
    assert alone["evaluation"]["101 loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert alone["evaluation"]["101 accuracy"] == pytest.approx(expected["accuracy"])


def test_keras_callbacks_see_epochs_loops_and_metrics(tmp_path):
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    seen = []
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(("begin", epoch)),
        on_train_batch_end=lambda batch, logs: seen.append(("loop", batch, sorted(logs))),
        on_epoch_end=lambda epoch, logs: seen.append(("end", epoch)),
    )
    t = Trainer(t.model, steps_per_loop=2)
    data = ArrayTrainingInput(*training_cases.images(320), training_cases.BATCH)
    t.fit(data, epochs=2, callbacks=[watch, log])
    assert [event[:2] for event in seen[:5]] == [
        ("begin", 0),
        ("loop", 1),
        ("loop", 3),
        ("loop", 4),
        ("end", 0),
    ]
    assert seen[1][2] == ["accuracy", "images_per_second", "input_wait", "learning_rate", "loss"]
    assert (tmp_path / "log.csv").read_text().count("\n") == 3


def test_the_loop_is_traced_once():
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    t.fit(ArrayTrainingInput(*training_cases.images(300), training_cases.BATCH), epochs=5)
    assert t._now.loop.tracing_count == 1


def test_the_optimizer_reduces_by_itself_again_after_fit():
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    t.fit(ArrayTrainingInput(*training_cases.images(64), training_cases.BATCH), epochs=1)
    assert "_all_reduce_sum_gradients" not in vars(t.model.optimizer)


def test_epochs_may_be_shorter_than_a_batch():
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    history = t.fit(
        ArrayTrainingInput(*training_cases.images(20), training_cases.BATCH),
        epochs=8,
        validation_data=ArrayEvaluationInput(*training_cases.images(10), 10),
    )
    assert [(h["epoch"], h["step"]) for h in history] == [(3, 1), (6, 2), (8, 3)]
    assert all("val_loss" in entry for entry in history)
    assert t.step == 3


def test_a_run_stopped_within_an_epoch_goes_on_from_there_and_ends_as_if_undisturbed(tmp_path):
    data = ArrayTrainingInput(*training_cases.images(320), training_cases.BATCH)

    def run(name, callbacks):
        t = training_cases.trainer(
            tf.distribute.get_strategy(), training_cases.plain_model, steps_per_loop=1
        )
        store = CheckpointStore(str(tmp_path / name), {})
        return t, t.fit(data, epochs=3, callbacks=callbacks, checkpoints=store)

    undisturbed, expected = run("undisturbed", [])
    stopped, history = run("stopped", [training_cases.StopAt(step=7)])
    assert stopped.step == 7
    assert [(h["epoch"], h["step"]) for h in history] == [(1, 5), (1.4, 7)]
    resumed, history = run("stopped", [])
    assert [(h["epoch"], h["step"]) for h in history] == [(1, 5), (2, 10), (3, 15)]
    assert history[-1]["loss"] == expected[-1]["loss"]
    for name, value in training_cases.weights(undisturbed.model).items():
        np.testing.assert_array_equal(training_cases.weights(resumed.model)[name], value)


def test_a_run_that_a_callback_stops_is_evaluated_at_its_end():
    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    history = t.fit(
        ArrayTrainingInput(*training_cases.images(64), training_cases.BATCH),
        epochs=9,
        validation_data=ArrayEvaluationInput(*training_cases.images(10), 10),
        validation_freq=3,
        callbacks=[training_cases.StopAt(epoch=4)],
    )
    assert [h["epoch"] for h in history if "val_loss" in h] == [3, 4]


@pytest.mark.parametrize(("most", "told"), [(20, "9 steps in a row"), (3, "3 steps in a row")])
def test_gradients_that_are_not_finite_end_the_run_with_the_name_of_a_layer(most, told):
    t = training_cases.trainer(
        tf.distribute.get_strategy(),
        training_cases.plain_model,
        lambda: keras.optimizers.SGD(1e30),
        max_skipped_steps=most,
        steps_per_loop=1 if most == 3 else None,
    )
    with pytest.raises(InputError, match=f"{told}.*first in the output of sequential/"):
        t.fit(ArrayTrainingInput(*training_cases.images(320), training_cases.BATCH), epochs=3)


def test_keras_2_trains_to_the_same_weights_under_a_mirrored_strategy(mirrored, on_two_cpus):
    """Compares with an independent implementation: tf_keras's `fit`, with SGD and momentum."""
    tf_keras = pytest.importorskip("tf_keras", reason="tf_keras is in the extra `test`")
    x, y = training_cases.images(320)
    t = training_cases.trainer(
        mirrored, training_cases.plain_model, lambda: keras.optimizers.SGD(0.05, momentum=0.9)
    )
    start = t.model.get_weights()
    t.fit(InOrder(x, y, training_cases.BATCH), epochs=4)

    with mirrored.scope():
        oracle = tf_keras.Sequential(
            [
                tf_keras.Input((8, 8, 3)),
                tf_keras.layers.Rescaling(1 / 128, offset=-1.0),
                tf_keras.layers.Conv2D(8, 3, activation="relu"),
                tf_keras.layers.GlobalAveragePooling2D(),
                tf_keras.layers.Dense(10),
            ]
        )
        oracle.compile(
            tf_keras.optimizers.legacy.SGD(0.05, momentum=0.9),
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    oracle.set_weights(start)
    oracle.fit(x, y, batch_size=training_cases.BATCH, epochs=4, shuffle=False, verbose=0)
    for ours, theirs in zip(t.model.get_weights(), oracle.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.max(np.abs(theirs)))


class InOrder(ArrayTrainingInput):
    """Examples in their original order, epoch after epoch."""

    def dataset(self, context, first_step, last_step):
        share = self.global_batch_size // context.num_replicas_in_sync
        dataset = tf.data.Dataset.from_tensor_slices((self.x, self.y))
        return dataset.repeat().batch(share, drop_remainder=True)


def test_a_batch_that_does_not_divide_is_refused(mirrored):
    t = training_cases.trainer(mirrored, training_cases.plain_model)
    with pytest.raises(InputError, match="multiple of the number of replicas"):
        t.fit(ArrayTrainingInput(*training_cases.images(64), 63), epochs=1)


def test_batches_without_a_static_size_are_refused():
    class Data(ArrayTrainingInput):
        def dataset(self, context, first_step, last_step):
            return super().dataset(context, first_step, last_step).unbatch().batch(self.size)

        size = 64

    t = training_cases.trainer(tf.distribute.get_strategy(), training_cases.plain_model)
    with pytest.raises(InputError, match="drop_remainder=True"):
        t.fit(Data(*training_cases.images(64), training_cases.BATCH), epochs=1)


def test_a_subclassed_model_with_two_outputs_and_a_penalty_trains_and_evaluates(mirrored):
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))
            self.second = keras.layers.Dense(2)

        def call(self, x):
            return {"a": self.first(x), "b": self.second(x)}

    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    y = {"a": x[:, :1], "b": x[:, :2]}

    class Data(ArrayEvaluationInput):
        def dataset(self, context):
            return (
                super()
                .dataset(context)
                .map(
                    lambda x, index, w: (
                        x,
                        {k: tf.gather(tf.constant(v), index) for k, v in y.items()},
                        w,
                    )
                )
            )

    results = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = Pair()
            model.compile("sgd", {"a": "mse", "b": "mse"}, metrics={"a": ["mae"], "b": ["mae"]})
            model(x[:2])
        results.append(Trainer(model, strategy).evaluate(Data(x, np.arange(30), 8)))
        expected = model.evaluate(x, y, batch_size=30, verbose=0, return_dict=True)
        assert results[-1]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        for name in ("a_mae", "b_mae", "a_loss", "b_loss"):
            assert results[-1][name] == pytest.approx(expected[name], rel=1e-5), name
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert os.environ.get("TF_CONFIG") is None

"""Batches that grow by epoch: the same examples, micro-batches of one size, exact resumption."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import training_cases
from tests.helpers.training_cases import StopAt
from tf_lars import LARS, Trainer, schedules
from tf_lars.data import order
from tf_lars.data.arrays import ArrayEvaluationInput, ArrayTrainingInput
from tf_lars.data.batch_schedule import BatchSizeSchedule
from tf_lars.errors import InputError
from tf_lars.tracking.observation import Observe
from tf_lars.training.checkpoints import CheckpointStore

ALONE = tf.distribute.get_strategy()
RAMP = BatchSizeSchedule.parse("0:16,1:32,3:64")
EXAMPLES = 100
STEPS = order.Steps.of(EXAMPLES, RAMP)


def _data(batches=RAMP):
    return ArrayTrainingInput(*training_cases.images(EXAMPLES), batches, seed=3)


class Watcher(keras.callbacks.Callback):
    """Keeps all observations."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_observation(self, observation):
        self.seen.append(observation)


def test_a_ramp_takes_the_steps_of_a_loop_over_the_same_stream():
    rate = schedules.Ramped(
        schedules.WarmupPolynomial(2.0, total_steps=30, warmup_steps=6), STEPS.phases, 16, "linear"
    )
    trainer = training_cases.trainer(ALONE, training_cases.plain_model, lambda: LARS(rate))
    trainer.fit(_data(), epochs=5, verbose=0)
    oracle = training_cases.trainer(ALONE, training_cases.plain_model, lambda: LARS(rate)).model
    x, y = training_cases.images(EXAMPLES)
    one_by_one = ArrayTrainingInput(x, y, 1, seed=3).dataset(tf.distribute.InputContext(), 0, 1000)
    stream = one_by_one.unbatch().as_numpy_iterator()
    for step in range(STEPS.epoch_ends(5)[-1]):
        examples = list(itertools.islice(stream, STEPS.batch_size(step)))
        batch = tuple(np.stack(part) for part in zip(*examples, strict=True))
        with tf.GradientTape() as tape:
            loss = oracle.loss(batch[1], oracle(batch[0], training=True))
        gradients = tape.gradient(loss, [v.value for v in oracle.trainable_variables])
        oracle.optimizer.apply(gradients, oracle.trainable_variables)
    training_cases.assert_same_training(
        training_cases.weights(trainer.model), training_cases.weights(oracle), 1e-5
    )


def test_each_phase_is_traced_once_and_observed_with_its_batch():
    trainer = training_cases.trainer(
        ALONE, training_cases.small_resnet, observe=Observe(noise_scale=True), steps_per_loop=1
    )
    watcher = Watcher()
    validation = ArrayEvaluationInput(*training_cases.images(20, seed=1), 20)
    history = trainer.fit(
        _data(),
        epochs=5,
        validation_data=validation,
        batch_norm_examples=64,
        callbacks=[watcher],
        verbose=0,
    )
    assert trainer.micro_batch_size == 16
    assert trainer._now.loop.tracing_count == 3
    assert [one.global_batch_size for one in watcher.seen] == [
        STEPS.batch_size(step) for step in range(len(watcher.seen))
    ]
    assert [one.parts and one.parts.parts for one in watcher.seen] == [
        {16: None, 32: 2, 64: 4}[one.global_batch_size] for one in watcher.seen
    ]
    assert [entry["step"] for entry in history] == STEPS.epoch_ends(5)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    for entry, start in zip(history, [0, *STEPS.epoch_ends(4)], strict=True):
        seconds = sum(one.seconds for one in watcher.seen if start < one.step <= entry["step"])
        used = STEPS.position(entry["step"]) - STEPS.position(start)
        assert entry["images_per_second"] == pytest.approx(used / seconds)


@pytest.mark.parametrize("stop", [{"epoch": 1}, {"step": 9}, {"epoch": 4}])
@pytest.mark.slow
def test_a_ramp_resumes_in_any_phase_with_the_same_bits(stop, tmp_path):
    def run(folder, *callbacks):
        rate = schedules.Ramped(schedules.WarmupCosine(2.0, 30, 6), STEPS.phases, 16)
        trainer = training_cases.trainer(
            ALONE, training_cases.with_dropout, lambda: LARS(rate), steps_per_loop=2
        )
        store = CheckpointStore(str(tmp_path / folder), {})
        trainer.fit(_data(), epochs=5, checkpoints=store, callbacks=callbacks, verbose=0)
        return training_cases.weights(trainer.model)

    undisturbed = run("undisturbed")
    run("stopped", StopAt(**stop))
    training_cases.assert_same_bits(run("stopped"), undisturbed)


def test_automatic_micro_batches_divide_all_batches_of_a_ramp():
    trainer = training_cases.trainer(
        ALONE, lambda: training_cases.limited_model(30), micro_batch_size="auto"
    )
    trainer.fit(_data(BatchSizeSchedule.parse("0:32,1:48")), epochs=2, verbose=0)
    assert trainer.micro_batch_size == 16


@pytest.mark.parametrize(
    ("batches", "micro", "message"),
    [
        ("0:32,1:48", None, r"48 examples of each replica, and 32 .* such as 16"),
        ("0:32,1:48", 32, r"must divide the 48 examples"),
    ],
)
def test_batches_that_micro_batches_do_not_divide_are_refused(batches, micro, message):
    trainer = training_cases.trainer(ALONE, training_cases.plain_model, micro_batch_size=micro)
    with pytest.raises(InputError, match=message):
        trainer.fit(_data(BatchSizeSchedule.parse(batches)), verbose=0)


WIDTH, RATE, BATCH, STEPS_PER_EPOCH = 2000, 0.02, 8, 60
"""A noisy quadratic: each coordinate of the weights is an independent run of SGD."""


class _Distance(keras.layers.Layer):
    """Half of the squared distance of each example from the weights."""

    def build(self, shape):
        self.centre = self.add_weight(shape=shape[1:], initializer="ones", name="centre")

    def call(self, x):
        return 0.5 * tf.reduce_sum((self.centre - x) ** 2, axis=1)


def _end_of_sgd(batches, rate, seed):
    """Returns the weights after three epochs, relative to the minimum."""
    x = np.random.default_rng(0).normal(size=(BATCH * STEPS_PER_EPOCH, WIDTH)).astype(np.float32)
    model = keras.Sequential([keras.Input((WIDTH,)), _Distance()])
    model.compile(keras.optimizers.SGD(rate), loss=lambda y, distance: distance)
    data = ArrayTrainingInput(x, np.zeros(len(x), np.float32), batches, seed=seed)
    Trainer(model).fit(data, epochs=3, verbose=0)
    return model.layers[0].centre.numpy() - x.mean(axis=0)


def test_doubling_the_batch_has_the_effect_of_halving_the_rate_on_sgd():
    ramp = BatchSizeSchedule(((0, BATCH), (1, 2 * BATCH)))
    decay = keras.optimizers.schedules.PiecewiseConstantDecay(
        [STEPS_PER_EPOCH - 1], [RATE, RATE / 2]
    )
    decayed, ramped, unchanged = (
        _end_of_sgd(*arguments)
        for arguments in ((BATCH, decay, 1), (ramp, RATE, 2), (BATCH, RATE, 3))
    )
    error = np.sqrt((decayed.var() + ramped.var()) / WIDTH)
    assert abs(decayed.mean() - ramped.mean()) < 3 * error
    relative_error = np.sqrt(2 * 2 / WIDTH)  # of the quotient of two variances
    assert abs(np.log(decayed.var() / ramped.var())) < 3 * relative_error
    # The change is visible: without it, both differ by far more.
    assert abs(unchanged.mean() - ramped.mean()) > 10 * error
    assert np.log(unchanged.var() / ramped.var()) > 5 * relative_error

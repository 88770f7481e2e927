"""A trial after other trials in a process gives the same result as a separate run."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from tests.helpers import training_cases
from tf_lars import LARS, Trainer, schedules
from tf_lars.data.image_input import to_device_batch
from tf_lars.data.in_memory import Images, ResidentTrainingInput
from tf_lars.study.adjustable_schedule import AdjustableWarmupPolynomial
from tf_lars.study.runner import StudyData, StudyRunner
from tf_lars.study.trials import Trial

EPOCHS = 3
TRIAL = Trial("lars", 64, 4.0, 1.0, "none", seed=1)


def _images(examples, seed):
    image, label = training_cases.images(examples, seed)
    return Images(image, label.astype(np.int32))


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `demo`)")
    train = _images(200, 0)
    return StudyData(train, train, _images(50, 1), _images(60, 2), num_classes=10)


def _create_model(seed):
    keras.utils.set_random_seed(seed)
    return models.create("small_resnet8_w4", num_classes=10, image_size=8)


def _compile_model(model, optimizer, schedule):
    model.compile(
        LARS(
            schedule,
            weight_decay=5e-4,
            exclude_from_layer_adaptation=None if optimizer == "lars" else [".*"],
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="top1")],
    )


def _runner(data):
    return StudyRunner(
        data,
        create_model=_create_model,
        compile_model=_compile_model,
        epochs=EPOCHS,
        decay_power=2.0,
        reestimate_batch_norm=lambda steps: steps < 1000,
        batch_norm_examples=8192,
    )


def _weights(model):
    return [variable.numpy() for variable in model.variables]


def test_an_adjustable_schedule_is_the_schedule_of_its_numbers():
    adjustable = AdjustableWarmupPolynomial(2.0)
    rate = tf.function(adjustable)
    for numbers in ((3.2, 37, 6), (10.0, 20, 0), (0.5, 8, 8)):
        adjustable.set(*numbers)
        fixed = schedules.WarmupPolynomial(*numbers)
        for step in range(40):
            assert float(rate(tf.constant(step))) == pytest.approx(float(fixed(step)), rel=1e-5)
    assert rate.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_a_trial_after_others_ends_with_the_weights_of_a_run_of_its_own(data):
    runner = _runner(data)
    runner.run(Trial("lars", 32, 30.0, 0.0, "reference", seed=0))
    result = runner.run(TRIAL)
    ended = _weights(runner._trainers["lars"][0].model)

    model = _create_model(TRIAL.seed)
    schedule = schedules.WarmupPolynomial(TRIAL.learning_rate, result.steps, round(200 / 64))
    _compile_model(model, "lars", schedule)
    trainer = Trainer(model, prepare_batch=functools.partial(to_device_batch, num_classes=10))
    training = ResidentTrainingInput(
        "", 64, image_size=8, augmentation="none", seed=1, images=data.plain
    )
    history = trainer.fit(
        training, epochs=EPOCHS, validation_data=runner._held_out, batch_norm_examples=8192
    )
    assert result.held_out_top1 == history[-1]["val_top1"]
    for ours, fresh in zip(ended, _weights(model), strict=True):
        scale = np.max(np.abs(fresh))
        np.testing.assert_allclose(ours, fresh, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_the_same_trial_twice_gives_the_same_bits_and_traces_once(data):
    runner = _runner(data)
    first = runner.run(TRIAL)
    trainer = runner._trainers["lars"][0]
    ended = _weights(trainer.model)
    runner.run(Trial("lars", 64, 0.5, 0.0, "none", seed=0))
    second = runner.run(TRIAL)
    assert [first.test_loss, first.held_out_loss] == [second.test_loss, second.held_out_loss]
    for one, other in zip(ended, _weights(trainer.model), strict=True):
        np.testing.assert_array_equal(one, other)
    runner.run(Trial("lars", 64, 4.0, 2.0, "reference", seed=1))  # the same batches, augmented
    assert trainer._now.loop.tracing_count == 1


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_result_and_the_next_one_is_sound(data):
    runner = _runner(data)
    sound = runner.run(Trial("sgd", 64, 0.05, 1.0, "none", seed=0))
    wild = runner.run(Trial("sgd", 8, 1e30, 0.0, "none", seed=0))
    assert wild.diverged
    again = runner.run(Trial("sgd", 64, 0.05, 1.0, "none", seed=0))
    assert not again.diverged
    assert again.test_loss == sound.test_loss

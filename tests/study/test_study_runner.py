"""A trial after other trials in a process gives the same result as a separate run."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from launch.run import build_model
from tests.helpers import training_cases
from tf_lars import LARS, Trainer, schedules
from tf_lars.data.image_input import to_device_batch
from tf_lars.data.in_memory import Images, ResidentTrainingInput
from tf_lars.study.adjustable_schedule import AdjustableWarmupPolynomial
from tf_lars.study.runner import StudyData, StudyRunner
from tf_lars.study.search_space import Point
from tf_lars.study.trials import Trial

EPOCHS = 3
TRIAL = Trial("lars", 64, EPOCHS, 1.0, "none", 1, Point(4.0, 0.9, 5e-4))


def _other(optimizer, batch, rate, warmup, augmentation, seed):
    point = Point(rate, 0.9, 5e-4)
    return Trial(optimizer, batch, EPOCHS, warmup, augmentation, seed, point)


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


def _compile_model(model, optimizer, schedule, point):
    model.compile(
        LARS(
            schedule,
            momentum=point.momentum,
            weight_decay=point.weight_decay,
            exclude_from_layer_adaptation=None if optimizer == "lars" else [".*"],
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="top1")],
    )


def _runner(data, compile_model=_compile_model):
    return StudyRunner(
        data,
        create_model=_create_model,
        seeds=(0, 1),
        compile_model=compile_model,
        evaluations=2,
        augmentation={"flip": False},
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
    runner.run(_other("lars", 32, 30.0, 0.0, "reference", seed=0))
    result = runner.run(TRIAL)
    ended = _weights(runner._trainers["lars"][1].model)

    model = _create_model(TRIAL.seed)
    schedule = schedules.WarmupPolynomial(TRIAL.point.learning_rate, result.steps, round(200 / 64))
    _compile_model(model, "lars", schedule, TRIAL.point)
    trainer = Trainer(model, prepare_batch=functools.partial(to_device_batch, num_classes=10))
    training = ResidentTrainingInput(
        "", 64, image_size=8, augmentation="none", seed=1, images=data.plain
    )
    history = trainer.fit(
        training, epochs=EPOCHS, validation_data=runner._test, batch_norm_examples=8192
    )
    assert result.test_top1 == history[-1]["val_top1"]
    assert [epochs for epochs, _ in result.curve] == [2, 3]
    assert result.curve[-1] == (3, result.test_top1)
    held_out = trainer.evaluate(runner._held_out)
    assert (result.held_out_top1, result.held_out_loss) == (held_out["top1"], held_out["loss"])
    for ours, fresh in zip(ended, _weights(model), strict=True):
        scale = np.max(np.abs(fresh))
        np.testing.assert_allclose(ours, fresh, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_the_same_trial_twice_gives_the_same_bits_and_traces_once(data):
    runner = _runner(data)
    first = runner.run(TRIAL)
    trainer = runner._trainers["lars"][1]
    ended = _weights(trainer.model)
    runner.run(_other("lars", 64, 0.5, 0.0, "none", seed=0))
    second = runner.run(TRIAL)
    assert [first.test_loss, first.held_out_loss] == [second.test_loss, second.held_out_loss]
    for one, other in zip(ended, _weights(trainer.model), strict=True):
        np.testing.assert_array_equal(one, other)
    runner.run(_other("lars", 64, 4.0, 2.0, "reference", seed=1))  # the same batches, augmented
    assert trainer._now.loop.tracing_count == 1


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_result_and_the_next_one_is_sound(data):
    runner = _runner(data)
    sound = runner.run(_other("sgd", 64, 0.05, 1.0, "none", seed=0))
    wild = runner.run(_other("sgd", 8, 1e30, 0.0, "none", seed=0))
    assert wild.diverged
    again = runner.run(_other("sgd", 64, 0.05, 1.0, "none", seed=0))
    assert not again.diverged
    assert again.test_loss == sound.test_loss


@pytest.mark.exhaustive
def test_other_hyperparameters_and_every_optimizer_are_those_of_the_trial(data):
    settings = []

    def compile_model(model, optimizer, schedule, point):
        settings.append((optimizer, point.momentum, point.weight_decay))
        build_model.compile_for_classes(
            model,
            build_model.study_optimizer(
                optimizer, schedule, momentum=point.momentum, weight_decay=point.weight_decay
            ),
            10,
            0.0,
        )

    runner = _runner(data, compile_model)
    first = dataclasses.replace(TRIAL, augmentation="pad_crop")
    results = [runner.run(first)]
    for momentum, decay in ((0.5, 5e-4), (0.5, 5e-4), (0.9, 0.0)):
        point = Point(4.0, momentum, decay)
        results.append(runner.run(dataclasses.replace(first, point=point)))
    assert settings == [("lars", 0.9, 5e-4), ("lars", 0.5, 5e-4), ("lars", 0.9, 0.0)]
    losses = [one.training_loss for one in results]
    assert losses[1] == losses[2]
    assert len({*losses}) == 3
    rates = {"sgd": 0.2, "nesterov": 0.2, "lamb": 0.05, "adamw": 0.01, "muon": 0.01}
    trained = []
    for name, rate in rates.items():
        trial = dataclasses.replace(TRIAL, optimizer=name, epochs=8, point=Point(rate, 0.9, 1e-3))
        trained.append(runner.run(trial).training_loss)
    assert max(trained) < 2.29  # log(10) is chance
    assert len({*trained}) == len(rates)

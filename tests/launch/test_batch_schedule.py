"""`--batch_size_schedule`: the settings, the learning rate of a run and of its extension."""

import pytest

from launch.run import build_model
from launch.run.extension import Extension
from launch.run.settings import TrainingSettings
from tf_lars.errors import InputError

RAMP = "0:64,2:128"
EXAMPLES = 200


def _settings(**more):
    return TrainingSettings(
        data="synthetic:200", epochs=4, warmup_epochs=1, batch_size_schedule=RAMP, **more
    )


def test_the_first_batch_takes_the_place_of_the_global_batch():
    settings = _settings(global_batch_size=512)
    assert settings.global_batch_size == 64
    assert str(settings.batches) == RAMP
    assert TrainingSettings().batches == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size_schedule": "4:256"}, "the first of them 0"),
        ({"batch_size_schedule": "256"}, "such as 0:256,4:512,8:1024. Received: '256'"),
        ({"batch_schedule_rate": "linear"}, "belongs to --batch_size_schedule"),
        (
            {"batch_size_schedule": RAMP, "batch_schedule_rate": "cubic"},
            "--batch_schedule_rate must be one of constant, linear, square_root",
        ),
    ],
)
def test_another_schedule_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**arguments)


def _rates(settings, extension=None):
    steps = settings.steps_over(EXAMPLES).epoch_ends(settings.epochs)[-1]
    schedule = build_model._schedule(settings, steps, EXAMPLES, extension)
    return [float(schedule(step)) for step in range(steps)], schedule


def test_the_learning_rate_counts_examples_and_follows_the_batch():
    # Epochs end after 4, 7, 9 and 10 steps; the second phase begins after 448 examples, 7 x 64.
    fixed, _ = _rates(TrainingSettings(epochs=4, warmup_epochs=1, global_batch_size=64))
    constant, _ = _rates(_settings())
    linear, _ = _rates(_settings(batch_schedule_rate="linear"))
    assert (len(fixed), len(constant)) == (13, 10)
    assert constant == pytest.approx([*fixed[:7], fixed[7], fixed[9], fixed[11]])
    assert linear == pytest.approx([*constant[:7], *(2 * rate for rate in constant[7:])])


def test_an_extension_of_a_ramp_begins_its_schedule_anew_at_the_batch_it_has_reached():
    settings = _settings(batch_schedule_rate="linear")
    # Epochs 1 to 3 were the first run; step 8 skipped, 576 examples used.
    extension = Extension((3,), first_step=8, skipped_steps=1)
    rates, schedule = _rates(settings, extension)
    # 832 examples in all, so 256 in the extension: 4 steps at 64, warm-up over 3 of them.
    plain = TrainingSettings(epochs=4, warmup_epochs=1, global_batch_size=64)
    steps = build_model.schedule_arguments(plain, 4, EXAMPLES)
    assert (steps["warmup_steps"], steps["total_steps"]) == (3, 4)
    assert [rates[7], float(schedule(8))] == pytest.approx([0.0, 2 * 10.0 * 2 / 3])

"""Published settings are returned unchanged, and all others are marked as interpolated."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.facts import needs_facts, rows
from tf_lars.errors import InputError
from tf_lars.recipes import recipes

POINTS = [r for r in recipes.published() if (r.model, r.optimizer) == ("resnet50", "lars")]
TODAY = [r for r in POINTS if "rules 4.0.0" in r.source]


@needs_facts
def test_every_reference_point_of_rules_4_is_returned_exactly():
    checked = 0
    for row in rows("mlperf_resnet_rcps.csv"):
        if row["rcp_version"] != "4.0.0":
            continue
        recipe = recipes.resnet50(int(row["batch_size"]), optimizer="lars")
        assert not recipe.interpolated
        assert row["record"] in recipe.source
        assert recipe.learning_rate == float(row["opt_base_learning_rate"])
        assert recipe.warmup_epochs == float(row["warmup_epochs"])
        assert recipe.momentum == float(row["momentum"])
        assert recipe.weight_decay == float(row["weight_decay"])
        assert recipe.batch_norm_group_size == int(row["model_bn_span"])
        assert recipe.epochs == float(row["derived_total_schedule_epochs"])
        assert recipe.epochs_to_target == float(row["epochs_mean"])
        assert (recipe.decay_power, recipe.end_learning_rate) == (2, 1e-4)
        assert (recipe.trust_coefficient, recipe.epsilon) == (0.001, 0)
        assert (recipe.label_smoothing, recipe.expected_top1) == (0.1, 0.759)
        # Number of steps in the record, of the whole schedule or after the warm-up.
        after_warmup = "POST-WARMUP" in row["decay_field_interpretation"]
        steps = recipe.steps - (recipe.warmup_steps if after_warmup else 0)
        assert steps == int(row["decay_steps_field"])
        checked += 1
    assert checked == 10


def test_the_older_point_is_returned_with_its_weight_decay_corrected():
    recipe = recipes.resnet50(2048)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.warmup_epochs) == (8.5, 2e-4, 5)
    assert "typo" in recipe.source


@pytest.mark.parametrize("recipe", POINTS, ids=lambda r: str(r.global_batch_size))
def test_the_learning_rate_is_that_of_mlperf_at_every_step(recipe):
    base, warmup = (
        recipe.learning_rate,
        round(recipe.warmup_epochs * 1281167 / recipe.global_batch_size),
    )
    total = round(recipe.epochs * 1281167 / recipe.global_batch_size)
    steps = np.unique(
        np.linspace(0, total, 300).astype(int).tolist() + [1, warmup - 1, warmup, warmup + 1]
    )
    schedule = recipe.learning_rate_schedule()
    expected = [
        base * s / warmup
        if s < warmup
        else 1e-4 + (base - 1e-4) * (1 - (s - warmup) / (total - warmup)) ** 2
        for s in steps.tolist()
    ]
    np.testing.assert_allclose([schedule(s) for s in steps], expected, rtol=3e-6, atol=1e-9)


FIELDS = (
    "learning_rate",
    "warmup_epochs",
    "epochs",
    "momentum",
    "weight_decay",
    "epochs_to_target",
)


@pytest.mark.parametrize(("low", "high"), list(itertools.pairwise(TODAY)))
def test_between_two_points_every_setting_goes_from_one_to_the_other(low, high):
    inside = [
        recipes.resnet50(int(b))
        for b in np.geomspace(low.global_batch_size + 1, high.global_batch_size - 1, 40)
    ]
    assert all(r.interpolated and "interpolated" in r.source for r in inside if r not in POINTS)
    for name in FIELDS:
        values = [getattr(r, name) for r in (low, *inside, high) if r.global_batch_size != 2048]
        differences = np.diff(values) * np.sign(values[-1] - values[0])
        assert (differences >= -1e-12).all(), (name, values)


def test_the_learning_rate_rises_through_the_older_point_too():
    rates = [recipes.resnet50(b).learning_rate for b in range(1632, 3265)]
    assert (np.diff(rates) > 0).all()


def test_interpolation_is_linear_in_the_logarithm_of_the_batch():
    recipe = recipes.resnet50(round((8192 * 13056) ** 0.5))
    assert recipe.learning_rate == pytest.approx((17 + 12.8) / 2, rel=1e-4)
    assert recipe.epochs == pytest.approx((43.97 + 48) / 2, rel=1e-4)


def test_groups_of_batch_normalisation_are_not_interpolated():
    assert recipes.resnet50(8192).batch_norm_group_size == 64
    assert recipes.resnet50(8448).batch_norm_group_size is None
    assert recipes.resnet50(8192, "sgd").batch_norm_group_size is None


def test_goyal_scales_linearly_and_divides_by_ten_at_epochs_30_60_and_80():
    recipe = recipes.resnet50(2048, optimizer="sgd")
    assert recipe.learning_rate == pytest.approx(0.8)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.weight_decay) == (90, 5, 1e-4)
    schedule = recipe.learning_rate_schedule()
    per_epoch = 1281167 / 2048
    rates = [float(schedule(round(epoch * per_epoch) + 1)) for epoch in (20, 31, 61, 81)]
    np.testing.assert_allclose(rates, [0.8, 0.08, 0.008, 0.0008], rtol=1e-5)
    np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)
    assert not recipes.resnet50(8192, optimizer="sgd").interpolated


def test_the_settings_of_alexnet_are_those_of_intel_caffe():
    recipe = recipes.alexnet_bn(32768)
    assert (recipe.learning_rate, recipe.initial_learning_rate, recipe.warmup_epochs) == (33, 1, 10)
    assert (recipe.epochs, recipe.weight_decay, recipe.expected_top1) == (100, 5e-4, 0.586)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipes.resnet50(512), r"from 1,632 to 67,840. Received: 512. Use the optimizer"),
        (lambda: recipes.resnet50(100_000), r"to 67,840. Received: 100,000. No result shows"),
        (lambda: recipes.resnet50(16384, "sgd"), r"from 256 to 8,192. Received: 16,384"),
        (lambda: recipes.resnet50(0), r"Received: 0"),
        (lambda: recipes.resnet50(4096, "adam"), r'must be "lars" or "sgd". Received: \'adam\''),
        (lambda: recipes.alexnet_bn(4096), r"published for a global batch of 32,768"),
        (
            lambda: recipes.alexnet_bn(32768, "sgd"),
            r"No settings are published for alexnet_bn with sgd",
        ),
        (
            lambda: recipes.for_model("vgg", 4096),
            r"published for alexnet_bn and resnet50 only. Received: 'vgg'. Give a learning rate",
        ),
        (
            lambda: recipes.from_baseline(1, 256, 512, epochs=0, num_examples=9),
            r"`epochs` must be above 0",
        ),
        (
            lambda: recipes.from_baseline(1, 256, 512, epochs=1, num_examples=9, rule="cubic"),
            r"one of linear, square_root, lars. Received: 'cubic'",
        ),
    ],
)
def test_what_is_not_published_is_refused_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_baseline_scales_by_each_rule():
    def scale(**more):
        return recipes.from_baseline(0.1, 256, 1024, epochs=90, num_examples=1_281_167, **more)

    assert scale(rule="linear").learning_rate == pytest.approx(0.4)
    assert scale(rule="square_root").learning_rate == pytest.approx(0.2)
    assert scale(optimizer="sgd").learning_rate == pytest.approx(0.4)
    flat = [
        recipes.from_baseline(10, 4096, b, epochs=40, num_examples=1_281_167).learning_rate
        for b in (4096, 16384, 65536)
    ]
    np.testing.assert_allclose(flat, [10, 20, 20])


def test_the_warmup_of_a_baseline_follows_the_share_of_the_data_in_a_batch():
    def warmup(batch, examples):
        recipe = recipes.from_baseline(5, 256, batch, epochs=100, num_examples=examples)
        return recipe.warmup_epochs

    assert warmup(32768, 1_281_167) == pytest.approx(100 * 16 / 57.98)
    assert warmup(1278, 50_000) == pytest.approx(warmup(32768, 1_281_167), rel=0.01)
    assert warmup(256, 1_281_167) == pytest.approx(100 * 2 / 35)


def test_recipes_need_no_tensorflow():
    source = (
        "import sys; from tf_lars import recipes; recipes.resnet50(4000); "
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


def test_a_run_has_published_settings_if_its_model_batch_and_data_do():
    adamw = recipes.for_run("resnet50", 4096, "adamw")
    assert adamw == recipes.for_model("resnet50", 4096, "sgd")
    assert recipes.for_run("resnet50", 4096, "lars") == recipes.for_model("resnet50", 4096, "lars")
    assert recipes.for_run("resnet50", 4096, "lars", 1_270_000) is not None
    assert recipes.for_run("resnet50", 4096, "lars", 100_000) is None
    assert recipes.for_run("resnet50", 100, "lars") is None
    assert recipes.for_run("lenet", 4096, "lars") is None

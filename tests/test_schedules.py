import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars import schedule_formulas, schedules
from tf_lars.errors import InputError

ALL = [
    schedules.WarmupPolynomial(
        peak_learning_rate=2.0,
        total_steps=10,
        warmup_steps=4,
        power=1.5,
        end_learning_rate=0.1,
        initial_learning_rate=0.2,
    ),
    schedules.WarmupCosine(2.0, total_steps=10, warmup_steps=4, end_learning_rate=0.1),
    schedules.WarmupStep(2.0, boundaries=[5, 8], decay_rate=0.5, warmup_steps=4),
    schedules.WarmupConstant(2.0, warmup_steps=4, initial_learning_rate=0.2),
]
EACH = pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)


def _mlperf(step, base, warmup, total, power=2.0, end=0.0):
    if step < warmup:
        return base * step / warmup
    return end + (base - end) * (1 - (step - warmup) / (total - warmup)) ** power


@pytest.mark.parametrize("end", [0.0, 1e-4])
def test_the_formula_of_mlperf(end):
    schedule = schedules.WarmupPolynomial(
        peak_learning_rate=31.2, total_steps=2815, warmup_steps=782, end_learning_rate=end
    )
    for step in (0, 1, 2, 390, 781, 782, 783, 1500, 2814, 2815):
        expected = _mlperf(step, 31.2, 782, 2815, end=end)
        np.testing.assert_allclose(schedule(step), expected, rtol=2e-6, atol=1e-12)


def test_defaults_of_the_polynomial():
    schedule = schedules.WarmupPolynomial(peak_learning_rate=3.0, total_steps=10)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 11)], [3.0, 0.75, 0.0, 0.0], atol=1e-7
    )


def test_cosine_and_step():
    cosine = schedules.WarmupCosine(2.0, total_steps=10, warmup_steps=2, end_learning_rate=0.5)
    for step in range(2, 11):
        expected = 0.5 + 1.5 * (1 + math.cos(math.pi * (step - 2) / 8)) / 2
        np.testing.assert_allclose(cosine(step), expected, rtol=1e-6)
    np.testing.assert_allclose(cosine(99), 0.5)
    steps = schedules.WarmupStep(1.0, boundaries=[3, 5], warmup_steps=2)
    rates = [float(steps(s)) for s in range(7)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


@EACH
def test_warmup_is_linear_and_meets_the_peak(schedule):
    initial = schedule.initial_learning_rate
    for step in range(4):
        np.testing.assert_allclose(schedule(step), initial + (2 - initial) * step / 4, rtol=1e-6)
    np.testing.assert_allclose(schedule(4), 2.0, rtol=1e-6)


@EACH
def test_serialization(schedule):
    config = keras.optimizers.schedules.serialize(schedule)
    restored = keras.optimizers.schedules.deserialize(config)
    assert type(restored) is type(schedule)
    assert restored.get_config() == schedule.get_config()


@EACH
def test_a_schedule_saved_with_its_optimizer(schedule, tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    model.save(tmp_path / "model.keras")
    optimizer = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()


@EACH
def test_the_value_is_a_traced_float32_tensor(schedule):
    traces = []

    @tf.function
    def rate(step):
        traces.append(1)
        return schedule(step)

    values = [rate(tf.constant(s, tf.int64)) for s in range(12)]
    assert len(traces) == 1
    assert values[0].dtype == tf.float32
    np.testing.assert_allclose(values, [schedule(s) for s in range(12)], rtol=1e-6)


def test_a_warmup_over_all_steps_has_no_decay():
    schedule = schedules.WarmupPolynomial(1.0, total_steps=4, warmup_steps=4)
    np.testing.assert_allclose([schedule(s) for s in (0, 2, 3, 4)], [0.0, 0.5, 0.75, 0.0])


def test_scaling_rules():
    assert schedules.linear_scaling(0.1, 8192) == pytest.approx(3.2)
    assert schedules.linear_scaling(0.4, 64, reference_batch_size=128) == pytest.approx(0.2)
    assert schedules.square_root_scaling(0.1, 1024) == pytest.approx(0.2)
    for rule in (schedules.linear_scaling, schedules.square_root_scaling):
        with pytest.raises(InputError, match="Received: batch_size=0"):
            rule(0.1, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.WarmupPolynomial(1.0, total_steps=0), "total_steps=0"),
        (lambda: schedules.WarmupCosine(1.0, 5, warmup_steps=6), "warmup_steps=6"),
        (lambda: schedules.WarmupConstant(1.0, warmup_steps=-1), "warmup_steps=-1"),
        (lambda: schedules.WarmupConstant(1.0, warmup_steps=1.5), "warmup_steps=1.5"),
        (lambda: schedules.WarmupPolynomial(1.0, 5, power=0), "power=0"),
        (lambda: schedules.WarmupStep(1.0, [5, 3]), r"boundaries=\[5, 3\]"),
        (lambda: schedules.WarmupStep(1.0, [5, "8"]), "boundaries='8'"),
        (lambda: schedules.WarmupStep(1.0, [5], decay_rate=0), "decay_rate=0"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(InputError, match=f"Received: .*{message}"):
        make()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda value: schedules.WarmupConstant(value), "peak_learning_rate"),
        (lambda value: schedules.WarmupConstant(1.0, value), "warmup_steps"),
        (lambda value: schedules.WarmupConstant(1.0, 1, value), "initial_learning_rate"),
        (lambda value: schedules.WarmupCosine(1.0, value), "total_steps"),
        (lambda value: schedules.WarmupCosine(1.0, 9, 1, value), "end_learning_rate"),
        (lambda value: schedules.WarmupPolynomial(1.0, 9, power=value), "power"),
        (lambda value: schedules.WarmupStep(1.0, [5], value), "decay_rate"),
        (lambda value: schedules.WarmupStep(1.0, [value]), "boundaries"),
        (lambda value: schedules.linear_scaling(value, 8), "learning_rate"),
        (lambda value: schedules.square_root_scaling(1.0, value), "batch_size"),
        (lambda value: schedules.linear_scaling(1.0, 8, value), "reference_batch_size"),
    ],
)
def test_what_is_no_number_in_range_is_refused_by_its_name(make, argument):
    for value in (np.nan, np.inf, -np.inf, -1, True, "1", None, np.float32("nan"), 10**400):
        with pytest.raises(InputError, match=f"`{argument}` must be .* Received: {argument}="):
            make(value)


def test_numbers_of_numpy_become_pythons_so_that_json_can_hold_them():
    schedule = schedules.WarmupPolynomial(np.float32(2), np.int64(9), power=np.float64(2))
    assert json.dumps(schedule.get_config()) == json.dumps(
        schedules.WarmupPolynomial(2.0, 9, power=2.0).get_config()
    )


def test_create_makes_each_schedule_by_its_name():
    common = dict(peak_learning_rate=2.0, total_steps=90, warmup_steps=4)
    polynomial = schedules.create("polynomial", **common, power=1.5, end_learning_rate=0.1)
    assert isinstance(polynomial, schedules.WarmupPolynomial)
    assert polynomial.get_config()["power"] == 1.5
    assert polynomial.end_learning_rate == 0.1
    assert isinstance(schedules.create("cosine", **common), schedules.WarmupCosine)
    assert schedules.create("step", **common).boundaries == [30, 60, 80]
    constant = schedules.create("constant", **common, initial_learning_rate=0.5)
    assert (type(constant), constant.initial_learning_rate) == (schedules.WarmupConstant, 0.5)
    with pytest.raises(InputError, match="polynomial, cosine, step or constant"):
        schedules.create("linear", **common)


@pytest.mark.parametrize("name", ["polynomial", "cosine", "step", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 7, 90])
def test_rates_without_tensorflow_are_those_of_the_schedule(name, warmup_steps):
    arguments = dict(
        peak_learning_rate=21.2,
        total_steps=90,
        warmup_steps=warmup_steps,
        initial_learning_rate=0.5,
        power=1.5,
        end_learning_rate=1e-4,
    )
    schedule = schedules.create(name, **arguments)
    steps = range(95)
    rates = schedule_formulas.rates(name, steps, **arguments)
    np.testing.assert_allclose(rates, [schedule(s) for s in steps], rtol=1e-5, atol=1e-6)


def test_rates_of_no_such_schedule_are_refused():
    with pytest.raises(InputError, match="Received: 'linear'"):
        schedule_formulas.rates("linear", [0], peak_learning_rate=1.0, total_steps=9)


def test_the_schedule_of_an_extension_begins_at_its_first_step():
    inner = schedules.WarmupPolynomial(2.0, total_steps=10, warmup_steps=4)
    shifted = schedules.Shifted(inner, 100)
    for step in range(12):
        counted = keras.Variable(100 + step, dtype="int64", trainable=False)  # as optimizers do
        assert float(shifted(counted)) == float(shifted(100 + step)) == float(inner(step))
    assert float(shifted(90)) == float(inner(0))
    read = schedules.Shifted.from_config(json.loads(json.dumps(shifted.get_config())))
    assert float(read(103)) == float(inner(3))
    with pytest.raises(InputError, match="`first_step` must be 0 or above"):
        schedules.Shifted(inner, -1)


PHASES = [(0, 0, 256), (23, 5888, 512), (34, 11520, 1024)]


@pytest.mark.parametrize("rule", schedule_formulas.RATE_RULES)
@EACH
def test_the_schedule_of_a_ramp_counts_examples_and_follows_the_batch(schedule, rule):
    ramped = schedules.Ramped(schedule, [(0, 0, 2), (3, 6, 4), (5, 14, 8)], 2, rule)
    examples, batches = [0, 2, 4, 6, 10, 14, 22], [2, 2, 2, 4, 4, 8, 8]
    for step, (used, batch) in enumerate(zip(examples, batches, strict=True)):
        factor = {"constant": 1, "linear": batch / 2, "square_root": math.sqrt(batch / 2)}[rule]
        expected = float(schedule(used / 2)) * factor
        counted = keras.Variable(step, dtype="int64", trainable=False)  # as optimizers do
        assert float(ramped(counted)) == float(ramped(step)) == pytest.approx(expected, rel=1e-6)
    read = schedules.Ramped.from_config(json.loads(json.dumps(ramped.get_config())))
    assert float(read(4)) == float(ramped(4))
    assert read.get_config() == ramped.get_config()


@EACH
def test_the_first_phase_of_a_ramp_has_the_rates_of_the_schedule_bit_for_bit(schedule):
    ramped = schedules.Ramped(schedule, PHASES, 256, "linear")
    assert [float(ramped(step)) for step in range(23)] == [float(schedule(s)) for s in range(23)]


def test_the_equivalent_steps_of_a_ramp_are_the_same_in_numpy():
    step = np.arange(40, dtype=np.float64)
    for rule in schedule_formulas.RATE_RULES:
        ours = schedule_formulas.ramped(np, step, PHASES, 256, rule)
        theirs = schedule_formulas.ramped(tf, tf.constant(step, tf.float32), PHASES, 256, rule)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert list(ours[0][[22, 23, 24, 34, 35]]) == [22, 23, 25, 45, 49]


@pytest.mark.parametrize(
    ("phases", "rule", "message"),
    [
        ([], "linear", "`phases`"),
        ([(1, 0, 4)], "linear", "`phases`"),
        ([(0, 0, 4), (0, 0, 8)], "linear", "`phases`"),
        ([(0, 0, 4)], "cubic", "constant, linear, square_root. Received: 'cubic'"),
    ],
)
def test_a_ramp_that_does_not_begin_or_rise_is_refused(phases, rule, message):
    with pytest.raises(InputError, match=message):
        schedules.Ramped(ALL[0], phases, 4, rule)

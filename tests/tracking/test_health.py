"""Warnings about a run: each on its symptom, by name and with a number, and once."""

import io

import numpy as np
import pytest

from tf_lars.tracking.health import Health, Thresholds
from tf_lars.tracking.metric_log import MetricLog, read
from tf_lars.tracking.noise_scale import DECAY
from tf_lars.tracking.observation import LayerSample, Observation, PartNorms, WorkerTimes

PATHS = ["stem/kernel", "block/kernel", "head/kernel"]
EVEN = WorkerTimes(0.001, 0.1, 0.02, 0.005)


def _sample(update=(1.0, 1.0, 1.0), gradient=(1.0, 1.0, 1.0), weight=(1.0, 1.0, 1.0)):
    norms = (np.array(values) for values in (weight, update, gradient))
    return LayerSample(PATHS, *norms, None)


def _observation(step=1, workers=(EVEN, EVEN), **fields):
    values = {
        "steps": 1,
        "seconds": 3.0,
        "traced": False,
        "global_batch_size": 512,
        "gradient_norms": np.ones(3),
    }
    return Observation(step=step, workers=list(workers), **(values | fields))


@pytest.fixture
def watched(tmp_path):
    """A function that returns a Health, its output and its log's path."""

    def make(**arguments):
        log = MetricLog(str(tmp_path / "tensorboard"), str(tmp_path / "metrics.jsonl"))
        log.begin(0, {})
        stream = io.StringIO()
        arguments = {"total_steps": 100, "worker_names": ("node0:1", "node1:1")} | arguments
        health = Health(log, stream=stream, **arguments)
        health.on_train_begin()

        def warnings():
            log.close()
            lines = read(str(tmp_path / "metrics.jsonl"))
            written = {line["warning"]: line["message"] for line in lines if "warning" in line}
            assert written == health.found
            printed = stream.getvalue().splitlines()
            assert printed == [f"warning: {message}" for message in health.found.values()]
            return health.found

        return health, warnings

    return make


def test_an_undisturbed_run_has_no_warnings(watched):
    health, warnings = watched(layers_every=1, warmup=(5.0, 5.0), moving_average_momentum=0.9)
    for step in range(1, 101):
        parts = PartNorms(1, 2, (1 - DECAY) * 1.0, (1 - DECAY) * (3 + 0.1 * (step % 3)))
        health.on_observation(_observation(step, layers=_sample(), parts=parts))
        health.on_train_batch_end(step - 1, {"loss": 2.3 - 0.02 * step})
    logs = {"loss": 0.5, "top1": 0.9, "val_loss": 0.6, "val_top1": 0.85, "step": 100}
    health.on_epoch_end(0, logs)
    assert warnings() == {}


def test_a_worker_that_waits_for_its_input_is_named_with_what_its_host_can_give(watched):
    measured = []
    health, warnings = watched(measure_input=lambda: measured.append(1) or "It gives 9 images/s.")
    for step in range(1, 21):
        starved = WorkerTimes(0.1, 0.09, 0.0, 0.01)
        health.on_observation(_observation(step, workers=(EVEN, starved)))
    message = warnings()["input"]
    assert "worker 1 (node1:1) waits for its input in 50% of the time, 100 of 200 ms" in message
    assert "It gives 9 images/s." in message
    assert measured == [1]


def test_the_first_calls_may_wait_for_their_input(watched):
    health, warnings = watched()
    starved = WorkerTimes(1.0, 0.09, 0.0, 0.01)
    for step in range(1, 5):
        health.on_observation(_observation(step, workers=(starved, starved)))
    for step in range(5, 9):
        health.on_observation(_observation(step, workers=(starved, starved), traced=True))
    for step in range(9, 60):
        health.on_observation(_observation(step))
    assert warnings() == {}


def test_a_straggler_is_named(watched):
    health, warnings = watched(worker_names=("a:1", "b:1", "c:1", "d:1"))
    slow = WorkerTimes(0.001, 0.25, 0.0, 0.005)
    for step in range(1, 21):
        health.on_observation(_observation(step, workers=(EVEN, EVEN, slow, EVEN)))
    assert "worker 2 (c:1) takes 2.4 times as long" in warnings()["straggler"]


def test_dead_layers_are_named_and_a_rate_of_0_is_not_death(watched):
    health, warnings = watched(layers_every=20)
    for step in range(20, 120, 20):
        health.on_observation(_observation(step, layers=_sample(update=(0.0, 0.0, 0.0))))
    for step in range(120, 200, 20):
        health.on_observation(_observation(step, layers=_sample(gradient=(1.0, 0.0, 1.0))))
    assert health.found == {}
    health.on_observation(_observation(200, layers=_sample(gradient=(1.0, 0.0, 1.0))))
    message = warnings()["dead_layer"]
    assert "1 variable has" in message
    assert "over 100 steps" in message
    assert "block/kernel" in message


def test_updates_that_vanish_in_rounding_at_the_end_are_not_death(watched):
    health, warnings = watched(layers_every=20)
    for step in range(20, 220, 20):
        health.on_observation(_observation(step, layers=_sample(update=(1e-7, 0.0, 1e-7))))
    assert warnings() == {}
    health, warnings = watched(layers_every=20)
    for step in range(20, 220, 20):
        health.on_observation(_observation(step, layers=_sample(update=(1e-3, 0.0, 1e-3))))
    assert "block/kernel" in health.found["dead_layer"]


def test_a_loss_that_rises_is_told_with_the_weights_that_have_grown(watched):
    health, warnings = watched(layers_every=1)
    health.on_observation(_observation(1, layers=_sample()))
    health.on_train_batch_end(0, {"loss": 2.3})
    for step in range(2, 15):
        health.on_observation(_observation(step, layers=_sample(weight=(1.0, 500.0, 2.0))))
        health.on_train_batch_end(step - 1, {"loss": 40.0})
    assert "block/kernel, to 500 times their norm" in warnings()["loss"]


def test_a_batch_above_the_noise_scale_counts_in_the_second_half_only(watched):
    health, warnings = watched()
    # Two parts of 256: trace = (3 - 2) / (1/256 - 1/512) = 512, squared = 2*2 - 3 = 1, scale 512.
    below = PartNorms(1, 2, (1 - DECAY) * 2.0, (1 - DECAY) * 3.0)
    # trace = 0.1 * 512 = 51, squared = 0.9: scale 57.
    above = PartNorms(1, 2, (1 - DECAY) * 1.0, (1 - DECAY) * 1.1)
    for step in range(1, 51):
        health.on_observation(_observation(step, parts=above))
    assert health.found == {}
    for step in range(51, 101):
        health.on_observation(_observation(step, parts=above))
    assert "9 times the gradient noise scale of 57 examples" in warnings()["critical_batch"]
    health, warnings = watched()
    for step in range(51, 101):
        health.on_observation(_observation(step, parts=below))
    assert health.found == {}


def test_a_warmup_shorter_than_the_recipes_is_told_at_the_start(watched):
    _, warnings = watched(warmup=(2.0, 10.7))
    assert "2 epochs is shorter than the 10.7" in warnings()["warmup"]


@pytest.mark.parametrize(
    ("momentum", "step", "validation", "told"),
    [
        (0.99, 50, {"val_loss": 0.5, "val_top1": 0.9}, "61% of their initial values"),
        (0.9, 100, {"val_loss": 9.0, "val_top1": 0.1}, "validation loss 9 and top-1 10.0%"),
        (0.9, 100, {"val_loss": float("nan"), "val_top1": 0.1}, "validation loss nan"),
        (0.9, 100, {"val_loss": 0.7, "val_top1": 0.8}, None),
        (None, 50, {"val_loss": 9.0, "val_top1": 0.1}, None),
        (0.99, 50, {}, None),
    ],
)
def test_moving_averages_that_do_not_fit_are_told(watched, momentum, step, validation, told):
    health, warnings = watched(moving_average_momentum=momentum)
    health.on_epoch_end(0, {"loss": 0.5, "top1": 0.9, "step": step} | validation)
    found = warnings()
    assert list(found) == (["batch_norm"] if told else [])
    assert told is None or told in found["batch_norm"]


def test_thresholds_can_be_changed(watched):
    health, warnings = watched(thresholds=Thresholds(input_wait=0.005, calls=1, seconds=0.0))
    health.on_observation(_observation(1))
    assert "input" in warnings()

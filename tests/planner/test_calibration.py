"""Short runs predict a long one, on synthetic devices and on those of You et al."""

import json

import pytest

from tf_lars import planner
from tf_lars.errors import InputError
from tf_lars.planner import Measurement, Workload, communication

RESNET50 = planner.workload("resnet50")
SMALL = Workload("small_resnet8 at 32 px", 0.0, 100_000)


def _paper(accelerator, devices, minutes, batch=32768, epochs=90):
    steps = epochs * 1_281_167 / batch
    return Measurement(accelerator, devices, batch, 60 * minutes / steps, RESNET50)


# You et al.: 512 KNL in 60 minutes, 1,024 Skylake in 48; both on Stampede 2, an Omni-Path network.
PAPER = [_paper("KNL", 512, 60), _paper("SKX", 1024, 48)]


def test_the_rows_of_512_and_1024_processors_predict_20_minutes_on_2048_knl():
    knl = planner.calibrate(PAPER, accelerator="KNL", network="omni_path", algorithm="tree")
    plan = planner.predict(accelerator=knl, devices=2048, global_batch_size=32768, epochs=90)
    assert plan.minutes == pytest.approx(20, rel=0.15)
    unknown = planner.calibrate(PAPER, accelerator="KNL", algorithm="tree")
    plan = planner.predict(accelerator=unknown, devices=2048, global_batch_size=32768, epochs=90)
    assert plan.minutes == pytest.approx(20, rel=0.15)
    assert plan.relative_error > 0.15  # includes the uncertainty of the network


def _device(devices, batch, *, rate=500.0, overhead=4e-3, cores=None, shared=False):
    """Returns a measurement that follows the model exactly, with a ring over 10 Gb/s."""
    per_device = rate
    if cores is not None:
        per_device *= cores if cores <= 1 else cores**0.5
    reduction = communication.ring(
        devices, 4 * SMALL.parameters, communication.Network("", 5e-5, 8e-10)
    )
    seconds = batch / devices / per_device + overhead + (reduction if devices > 1 else 0.0)
    return Measurement("made up", devices, batch, seconds, SMALL, cores, shared)


def test_two_runs_predict_another_batch_and_more_devices():
    fitted = planner.calibrate([_device(1, 64), _device(2, 256)], network="50:10")
    for devices, batch in ((2, 512), (4, 256), (16, 4096)):
        plan = planner.predict(
            accelerator=fitted, devices=devices, global_batch_size=batch, epochs=1
        )
        truth = _device(devices, batch).step_seconds
        assert plan.step_seconds == pytest.approx(truth, rel=0.05)
        assert abs(plan.step_seconds / truth - 1) < 3 * plan.relative_error


def test_more_runs_leave_less_uncertain():
    few = planner.calibrate([_device(1, 64)])
    many = planner.calibrate([_device(1, 64), _device(1, 512), _device(2, 256), _device(4, 256)])
    assert many.error(64, 8) < few.error(64, 8)


def test_workers_that_share_the_cores_of_a_machine_slow_each_other():
    runs = [
        _device(1, 256, cores=2, shared=True),
        _device(2, 256, cores=1, shared=True),
        _device(2, 64, cores=1, shared=True),
    ]
    fitted = planner.calibrate(runs)
    assert fitted.host_cores == 2
    plan = planner.predict(accelerator=fitted, devices=4, global_batch_size=1024, epochs=1)
    truth = _device(4, 1024, cores=0.5, shared=True).step_seconds
    assert plan.step_seconds == pytest.approx(truth, rel=0.05)
    assert any("4 workers share 2 cores" in note for note in plan.notes)


def test_the_model_of_the_runs_is_the_default_and_its_size_counts():
    fitted = planner.calibrate([_device(1, 64), _device(2, 256)])
    plan = planner.predict(
        accelerator=fitted, devices=2, global_batch_size=256, epochs=10, num_examples=1437
    )
    assert plan.model == SMALL.name
    assert plan.steps == round(10 * 1437 / 256)
    with pytest.raises(InputError, match="needs the FLOPs of both"):
        planner.predict(
            model="resnet50", accelerator=fitted, devices=2, global_batch_size=256, epochs=1
        )
    knl = planner.calibrate(PAPER[:1])
    resnet, deeper = (
        planner.predict(model=m, accelerator=knl, devices=1, global_batch_size=64, epochs=1)
        for m in ("resnet50", "resnet152")
    )
    assert deeper.step_seconds / resnet.step_seconds == pytest.approx(23.027 / 8.178, rel=0.03)


RUN = {
    "model": "small_resnet8",
    "image_size": 32,
    "parameters": 100_000,
    "forward_flops": 0,
    "device": "CPU",
    "replicas": 2,
    "cores_per_replica": 1.0,
    "num_hosts": 1,
    "global_batch_size": 256,
    "images_per_second": 1000.0,
}


def test_a_run_is_read_from_its_folder_or_its_file(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RUN))
    for path in (tmp_path, tmp_path / "results.json"):
        run = Measurement.load(str(path))
        assert run == Measurement("CPU", 2, 256, 0.256, SMALL, 1.0, True)
    known = {**RUN, "model": "resnet50", "image_size": 224, "forward_flops": 8_178_000_000}
    (tmp_path / "results.json").write_text(json.dumps(known))
    assert Measurement.load(str(tmp_path)).workload == Workload("resnet50", 8.178e9, 100_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"reads the results.json of finished runs.*No such file"),
        ("not JSON", r"needs a results.json written by a launcher"),
        ("{}", r"KeyError\('model'\)"),
        (json.dumps({**RUN, "batch_size_schedule": "0:8,1:16"}), "needs runs of one batch size"),
        (json.dumps({**RUN, "images_per_second": 0}), "images_per_second must be from 1e-06"),
        (json.dumps({**RUN, "images_per_second": -5.0}), "images_per_second must be from 1e-06"),
    ],
)
def test_a_file_that_is_no_run_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        planner.calibrate([str(tmp_path)])


def test_runs_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match=r"at least one run.*Received: no runs"):
        planner.calibrate([])
    with pytest.raises(InputError, match="resnet50 and small_resnet8 at 32 px"):
        planner.calibrate([PAPER[0], _device(1, 64)])
    with pytest.raises(InputError, match=r"The runs used KNL and SKX.*accelerator=None"):
        planner.calibrate(PAPER)
    with pytest.raises(InputError, match="network must be one of"):
        planner.calibrate(PAPER, accelerator="KNL", network="pigeons")
    with pytest.raises(InputError, match="all-reduce must be one of"):
        planner.calibrate(PAPER, accelerator="KNL", algorithm="butterfly")


def test_what_one_device_cannot_show_of_the_network_stays_uncertain():
    alone = planner.calibrate([_paper("KNL", 1, 10_000, batch=64)])
    assert alone.error(64, 1024) > alone.error(64, 1)
    named = planner.calibrate([_paper("KNL", 1, 10_000, batch=64)], network="10gbe")
    assert named.error(64, 1024) < alone.error(64, 1024)

"""`python -m launch.plan` from the command line."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def _run(*flags, **more):
    return subprocess.run(
        [sys.executable, *more.pop("options", ()), "-m", "launch.plan", *flags],
        cwd=more.pop("cwd", ROOT),
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


ASKED = ("--accelerator=A100-SXM", "--devices=64", "--global_batch_size=16384")


def test_a_table_and_a_picture(tmp_path):
    done = _run(*ASKED, "--price_per_device_hour=2", f"--picture={tmp_path / 'plan.png'}")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("resnet50 on 64 x A100-SXM, global batch 16,384: 5.")
    assert "interpolated in log(batch) between the reference convergence points" in done.stdout
    for column in ("devices", "batch", "epochs", "steps", "ms/step", "comm.", "time", "images/s"):
        assert column in done.stdout
    assert "cost" in done.stdout
    assert "stops paying" in done.stdout
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_json_holds_the_same_and_draws_nothing(tmp_path):
    elsewhere = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    done = _run(*ASKED, "--format=json", "--epochs=40", **elsewhere)
    answer = json.loads(done.stdout)
    plan = answer["plan"]
    assert (plan["devices"], plan["global_batch_size"], plan["epochs"]) == (64, 16384, 40)
    assert plan["minutes"] == pytest.approx(plan["steps"] * plan["step_seconds"] / 60)
    assert plan["cost"] is None
    assert [p["devices"] for p in answer["same_batch"]] == [16, 32, 64, 128, 256]
    assert answer["doubling_pays"]["up_to_devices_at_this_batch"] > 64
    assert answer["recipe"]["model"] == "resnet50"
    assert not list(tmp_path.iterdir())


def test_a_deadline_gives_the_number_of_devices():
    done = _run("--accelerator=H100-SXM", "--deadline_minutes=20", "--format=json")
    plan = json.loads(done.stdout)["plan"]
    assert 15 < plan["minutes"] <= 20
    fixed = _run(
        "--accelerator=H100-SXM",
        "--deadline_minutes=20",
        "--global_batch_size=4096",
        "--format=json",
    )
    fixed = json.loads(fixed.stdout)["plan"]
    assert fixed["global_batch_size"] == 4096
    assert 4096 % fixed["devices"] == 0
    assert fixed["minutes"] <= 20


def test_hardware_by_its_data_sheet():
    done = _run(
        "--flops=3e14",
        "--memory_bandwidth=2e12",
        "--network=hdr",
        "--node_network=nvlink3",
        "--all_reduce=two_level",
        "--devices=64",
        "--format=json",
    )
    plan = json.loads(done.stdout)["plan"]
    assert 0 < plan["communication_fraction"] < 0.5
    assert any("not measured" in note for note in plan["notes"])


def test_a_calibration_from_runs(tmp_path):
    for workers, rate in ((1, 100.0), (2, 190.0)):
        (tmp_path / str(workers)).mkdir()
        run = {
            "model": "small_resnet8",
            "image_size": 32,
            "parameters": 78_000,
            "forward_flops": 0,
            "device": "CPU",
            "replicas": workers,
            "cores_per_replica": 1.0,
            "num_hosts": workers,
            "global_batch_size": 64 * workers,
            "images_per_second": rate,
        }
        (tmp_path / str(workers) / "results.json").write_text(json.dumps(run))
    done = _run(
        f"--calibrate={tmp_path / '1'},{tmp_path / '2'}",
        "--devices=4",
        "--global_batch_size=256",
        "--epochs=30",
        "--num_examples=1437",
        "--format=json",
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["model"] == "small_resnet8 at 32 px"
    assert plan["images_per_second"] == pytest.approx(375, rel=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "by --accelerator, one of A10, A100-PCIe"),
        (("--accelerator=A100-SXM",), "--devices or --deadline_minutes is required"),
        (("--accelerator=A100-SXM", "--devices=0"), "--devices must be from 1 to"),
        (("--flops=nan", "--devices=8"), "--flops must be from 1e+06 to 1e+20. Received: nan"),
        ((*ASKED, "--optimizer=adam"), "--optimizer must be lars or sgd. Received: 'adam'"),
        ((*ASKED, "--epochs=-1"), "--epochs must be above 0 and at most 1,000,000. Received: -1.0"),
        ((*ASKED, "--price_per_device_hour=inf"), "--price_per_device_hour must be above 0"),
        ((*ASKED, "--largest_batch=0"), "--largest_batch must be from 1 to"),
        ((*ASKED, "--overlap=1.5"), "--overlap must be from 0 to 1"),
        ((*ASKED, "--all_reduce=butterfly"), "--all_reduce must be one of ring"),
        ((*ASKED, "--dtype=int8"), "--dtype must be one of float32, bfloat16, float16"),
        (
            ("--accelerator=A100-SXM", "--devices=64", "--global_batch_size=32"),
            "Every device needs at least one image",
        ),
        (("--accelerator=abacus", "--devices=8"), "one of A10, A100-PCIe, A100-SXM"),
        (("--accelerator=A30", "--devices=8", "--model=vgg"), "must be one of resnet18"),
        (("--accelerator=A30", "--devices=8", "--deadline_minutes=5"), "Leave one out"),
        (("--accelerator=A30", "--flops=1e12", "--devices=8"), "given in one way"),
        (("--flops=1e12", "--devices=8"), "no --memory_bandwidth and no --network"),
        (
            ("--flops=1e12", "--memory_bandwidth=1e12", "--network=rope", "--devices=8"),
            "one of fdr, qdr",
        ),
        (("--accelerator=A30", "--devices=8", "--format=xml"), "--format must be table or json"),
        (("--accelerator=A30", "--deadline_minutes=0.01"), "No number of A30 meets 0.01 minutes"),
        (("--calibrate=nowhere", "--devices=8"), "Give the folders of finished runs"),
        (
            ("--accelerator=A30", "--devices=8", "--picture=/nowhere/plan.png"),
            "--picture must be a .png file in an existing folder",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(flags, message):
    done = _run(*flags, *(() if any("picture" in f for f in flags) else ("--picture=",)))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_neither_tensorflow_nor_matplotlib_is_imported_for_a_table():
    done = _run(*ASKED, "--picture=", options=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "tf_lars.planner.prediction" in imported
    assert not {"tensorflow", "keras", "matplotlib", "scipy"} & imported

"""`python -m launch.plan` from the command line."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tf_lars.planner import compiled_steps


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
    assert "The cheapest of these plans has 16 devices and a batch of 4,096: 17." in done.stdout
    assert "The quickest of these plans has 256 devices and a batch of 16,384: 1." in done.stdout
    assert "stops paying" in done.stdout
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_of_the_readme_is_the_output(tmp_path):
    example = (ROOT / "README.md").read_text().split("$ python -m launch.plan ")[1].split("```")[0]
    flags, _, expected = example.partition("\n")
    elsewhere = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    assert _run(*flags.split(), **elsewhere).stdout == expected


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


def test_accelerators_without_results_are_planned_by_their_data_sheets():
    one = _run("--accelerator=b200", "--devices=64", "--picture=")
    assert one.returncode == 0, one.stderr
    assert "on 64 x B200" in one.stdout
    assert "note        B200 is not measured: planned by its data sheet" in one.stdout
    slow = ("--network=5:10", "--node_network=5:10", "--format=json")
    plans = [
        json.loads(_run("--accelerator=B200", *ASKED[1:], *flags).stdout)["plan"]
        for flags in (["--format=json"], slow)
    ]
    assert plans[0]["relative_error"] == plans[1]["relative_error"] == 0.23
    assert plans[0]["step_seconds"] < plans[1]["step_seconds"]
    misspelt = _run("--accelerator=Trainum 2", "--devices=64")
    assert misspelt.returncode == 2
    assert "Did you mean Trainium2?" in misspelt.stderr


def _write_runs(folder):
    """Writes two finished runs on a CPU; returns the flag that names them."""
    for workers, rate in ((1, 100.0), (2, 190.0)):
        (folder / str(workers)).mkdir()
        run = {
            "steps": 1800,
            "epochs": 81,
            "top1": 0.97,
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
        (folder / str(workers) / "results.json").write_text(json.dumps(run))
    return f"--calibrate={folder / '1'},{folder / '2'}"


def test_a_calibration_from_runs(tmp_path):
    done = _run(
        _write_runs(tmp_path),
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


def test_own_data_are_planned_by_the_critical_batch(tmp_path):
    runs = _write_runs(tmp_path)
    line = {"step": 900, "epoch": 40.0, "noise/scale": 300.0, "val_top1": 0.9}
    (tmp_path / "1" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    asked = (runs, "--devices=4", "--global_batch_size=256", "--picture=")
    done = _run(*asked, "--critical_batch=auto", "--target_top1=0.9", "--price_per_device_hour=3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"{tmp_path / '1'} reached 0.9 top-1 after 57,600 examples at batch 64" in done.stdout
    assert "noise scale at step 900, only a proxy" in done.stdout
    assert lines[-3].startswith("The cheapest of these plans has 1 device and a batch of 64: ")
    assert lines[-2].startswith("The quickest of these plans has 16 devices and a batch of ")
    assert lines[-1].startswith(
        "Batch 256 is 0.85 of the critical batch of 300; twice the batch costs 1.46 times the "
        "examples and, on 8 devices, saves 2"
    )
    point = {"step": 900, "epoch": 40.0, "examples": 57600.0, "noise_scale": 300.0}
    point |= {"critical_batch": 1000.0, "low": 500.0, "high": 2000.0}
    content = {"format": 1, "points": [point], "model": None, "data": None, "optimizer": None}
    (tmp_path / "1" / "critical_batch.json").write_text(json.dumps(content | {"tolerance": None}))
    answer = json.loads(_run(*asked, "--critical_batch=auto", "--format=json").stdout)
    factor = (1 + 256 / 1000) / (1 + 64 / 1000)
    assert answer["plan"]["epochs"] == pytest.approx(1800 * factor / (900 / 40))
    low, high = answer["plan"]["epochs_interval"]
    assert low < answer["plan"]["epochs"] < high
    larger = answer["larger_batch"]
    assert [larger[key] for key in ("critical_batch", "low", "high")] == pytest.approx(
        [1000, 500, 2000]
    )


def test_a_batch_that_does_not_fit_is_refused_with_a_micro_batch_that_does():
    asked = ("--accelerator=H100-SXM", "--devices=8", "--global_batch_size=32768", "--picture=")
    refused = _run(*asked)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "must fit into its memory. Received: 184 of 79.11 GiB for 4,096 images" in refused.stderr
    [micro] = re.findall(r"Use (--micro_batch_size=\d+), which fits", refused.stderr)
    done = _run(*asked, micro)
    assert done.returncode == 0, done.stderr
    assert "GiB for 1,024 images at a time on h100_sxm, by XLA's count" in done.stdout
    assert _run(*asked, "--micro_batch_size=2048").returncode == 2


def test_batches_that_do_not_fit_are_not_chosen(tmp_path):
    path = str(tmp_path / "compiled.json")
    asked = ("--accelerator=TPUv5p", "--devices=4", "--format=json", f"--memory={path}")
    [step] = [
        step
        for step in compiled_steps.packaged()
        if (step.target, step.precision, step.per_replica_batch_size)
        == ("h100_sxm:8", "bfloat16", 64)
    ]
    chosen = []
    for gib in (1000, 8):
        one = dataclasses.replace(step, accelerator="TPUv5p", device_bytes=gib * 2**30)
        compiled_steps.write_json(path, [one])
        done = _run(*asked)
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)["plan"]
        chosen.append(plan["global_batch_size"] // 4)
        [note] = json.loads(done.stdout)["notes"]
        assert note.startswith("memory: ")
    assert chosen[0] > chosen[1]


def test_compiled_steps_of_another_model_are_refused(tmp_path):
    path = str(tmp_path / "compiled.json")
    others = [
        dataclasses.replace(step, image_size=192)
        for step in compiled_steps.packaged()
        if step.accelerator == "H100-SXM"
    ]
    compiled_steps.write_json(path, others)
    done = _run("--accelerator=H100-SXM", "--devices=8", "--picture=", f"--memory={path}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "without steps of resnet50 in bfloat16 on H100-SXM" in done.stderr
    assert "it has resnet50 at 192 px in bfloat16 on H100-SXM" in done.stderr
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{}")
    done = _run("--accelerator=H100-SXM", "--devices=8", "--picture=", f"--memory={damaged}")
    assert done.returncode == 2
    assert "must be as launch.compile_for writes it" in done.stderr


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
        ((*ASKED, "--critical_batch=auto"), "from the runs in --calibrate. Received: no --calib"),
        ((*ASKED, "--target_top1=0.9"), "Received: --target_top1 without"),
        ((*ASKED, "--target_loss=0"), "--target_loss must be above 0"),
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

"""Time to train: arithmetic, published results and refused input."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.facts import needs_facts, rows
from tf_lars import packaged_csv, planner
from tf_lars.errors import InputError
from tf_lars.planner.devices import (
    BYTES_PER_FLOP,
    FLOPS_SHARE,
    HARDWARE_ERROR,
    TYPICAL_OVERHEAD,
)

A100 = dict(accelerator="A100-SXM", devices=64, global_batch_size=16384)


def test_minutes_are_steps_times_the_step():
    plan = planner.predict(**A100, epochs=40, num_examples=1_000_000, price_per_device_hour=3)
    assert plan.steps == round(40 * 1_000_000 / 16384)
    assert plan.minutes == pytest.approx(plan.steps * plan.step_seconds / 60)
    assert plan.images_per_second == pytest.approx(16384 / plan.step_seconds)
    assert plan.cost == pytest.approx(plan.minutes / 60 * 64 * 3)
    assert not plan.epochs_extrapolated


def test_the_step_of_a_family_follows_its_three_constants():
    family = planner.device("A100-SXM")
    plan = planner.predict(**A100)
    r, h, k = family.images_per_second, family.overhead_images, family.growth_images
    total = 256 + h + k * math.log2(64)
    assert plan.step_seconds == pytest.approx(total / r)
    assert plan.communication_fraction == pytest.approx(k * 6 / total)
    assert plan.overhead_fraction == pytest.approx(h / total)


def test_a_family_is_known_in_any_case_and_the_default_model_is_resnet50():
    lower = planner.predict(**{**A100, "accelerator": "a100-sxm"})
    assert lower == planner.predict(**A100, model="resnet50")


def test_another_model_takes_its_share_of_arithmetic_and_gradients():
    resnet, alexnet = (planner.workload(name) for name in ("resnet50", "alexnet"))
    family = planner.device("A100-PCIe")
    ours, theirs = family.step(alexnet, 64, 16), family.step(resnet, 64, 16)
    assert ours.compute / theirs.compute == pytest.approx(1.449 / 8.178)
    assert ours.communication / theirs.communication == pytest.approx(60_965_224 / 25_557_032)


@needs_facts
def test_published_results_in_the_sample_within_the_bounds():
    families = {}
    for row in rows("mlperf_resnet_results.csv"):
        if row["family"] != "CPU":
            families.setdefault(row["family"], []).append(row)
    for epochs_given in (True, False):
        errors = []
        for family in (f for f in families.values() if len(f) >= 4):
            for row in family:
                plan = planner.predict(
                    model="resnet50",
                    accelerator=row["family"],
                    devices=int(row["n_accel"]),
                    global_batch_size=int(row["batch"]),
                    epochs=float(row["epochs_olympic"]) if epochs_given else None,
                )
                errors.append(abs(plan.minutes / float(row["minutes_olympic"]) - 1))
        assert len(errors) == 125
        assert np.mean(errors) <= 0.07
        assert np.percentile(errors, 90) <= 0.13


@needs_facts
def test_every_family_of_the_facts_is_an_accelerator():
    for row in rows("mlperf_resnet_results.csv"):
        plan = planner.predict(accelerator=row["family"], devices=8, global_batch_size=1024)
        assert plan.minutes > 0


@needs_facts
def test_the_published_results_are_those_of_the_facts():
    ours = {(r.devices, r.global_batch_size, r.minutes) for r in planner.published_results()}
    for row in rows("mlperf_resnet_results.csv"):
        key = (int(row["n_accel"]), int(row["batch"]), float(row["minutes_olympic"]))
        assert key in ours
    papers = [r for r in planner.published_results() if not r.is_mlperf]
    read = [row for row in rows("published_results.csv") if row["tag"] in ("V", "V2")]
    assert sorted(float(row["minutes"]) for row in read) == sorted(r.minutes for r in papers)


def test_hardware_is_computed_from_its_data_sheet():
    link = planner.Network("x", 1e-6, 1e-10)
    model = planner.workload("resnet50")
    starved = planner.Hardware(flops=1e15, memory_bandwidth=1e12, network=link)
    slow = planner.Hardware(flops=1e13, memory_bandwidth=1e13, network=link)
    assert starved.rate(model) == pytest.approx(1e12 / BYTES_PER_FLOP / (3 * 8.178e9))
    assert slow.rate(model) == pytest.approx(FLOPS_SHARE * 1e13 / (3 * 8.178e9))
    wide = dataclasses.replace(starved, dtype="float32")
    assert wide.rate(model) == pytest.approx(starved.rate(model) / 2)
    step = slow.step(model, 100, 4)
    assert step.compute == pytest.approx(100 / slow.rate(model))
    assert step.overhead == pytest.approx(TYPICAL_OVERHEAD / slow.rate(model))
    assert step.communication == pytest.approx(6e-6 + 1.5 * 4 * 25_557_032 * 1e-10)
    halved = dataclasses.replace(slow, gradient_dtype="bfloat16")
    assert halved.step(model, 100, 4).communication == pytest.approx(
        6e-6 + 1.5 * 2 * 25_557_032 * 1e-10
    )


def test_accelerators_without_results_are_hardware_by_their_data_sheets():
    names = ["B200", "GB200", "Gaudi3", "MI300X", "MI325X", "TPUv5e", "TPUv5p", "TPUv6e"]
    assert planner.unmeasured_accelerators() == [*names, "Trainium2"]
    for name in planner.unmeasured_accelerators():
        hardware = planner.device(name.lower())
        assert hardware.flops == planner.peak_flops(name)
        assert hardware.error(64, 8) == HARDWARE_ERROR
        assert hardware.notes(64, 8)[0].startswith(f"{name} is not measured")
        plan = planner.predict(accelerator=name, devices=64, global_batch_size=16384)
        # No published result is faster than 8,177 images/s per device (H200).
        assert 1_000 < plan.images_per_second / 64 < 20_000
        assert 0 < plan.communication_fraction < 0.1
    assert planner.device("TPU v5e") == planner.device("tpuv5e")
    with pytest.raises(InputError, match=r"Did you mean MI300X\?"):
        planner.device("MI300")


def test_every_row_of_data_sheets_has_a_source():
    for row in packaged_csv.rows("tf_lars.planner", "data_sheets.csv"):
        assert row["source"]
        assert bool(row["network"]) == (row["accelerator"] in planner.unmeasured_accelerators())


def test_the_all_reduce_hides_behind_the_backward_pass_as_far_as_it_overlaps():
    link = planner.Network("x", 0.0, 1e-9)
    hardware = planner.Hardware(flops=1e14, memory_bandwidth=1e13, network=link, overlap=0.5)
    model = planner.workload("resnet50")
    step = hardware.step(model, 64, 8)
    reduction = 2 * 7 / 8 * 4 * 25_557_032 * 1e-9
    assert step.communication == pytest.approx(reduction - 0.5 * 2 / 3 * step.compute)
    assert dataclasses.replace(hardware, overlap=1.0).step(model, 4096, 8).communication == 0


def test_what_lies_outside_the_results_is_said():
    plan = planner.predict(accelerator="V100-SXM", devices=8192, global_batch_size=131072)
    assert any("beyond 1,536 V100-SXM" in note for note in plan.notes)
    assert any("extrapolated" in note for note in plan.notes)
    inside = planner.predict(accelerator="V100-SXM", devices=1024, global_batch_size=65536)
    assert plan.relative_error > inside.relative_error
    crowded = planner.predict(accelerator="A30", devices=1, global_batch_size=4096)
    assert any("may not fit into the memory" in note for note in crowded.notes)
    lone = planner.predict(accelerator="L4", devices=6, global_batch_size=660)
    assert any("1 published result" in note for note in lone.notes)
    uneven = planner.predict(accelerator="A30", devices=3, global_batch_size=100)
    assert any("does not divide" in note for note in uneven.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, r"`devices` must be a whole number of at least 1. Received: devices=0"),
        ({"devices": -3}, r"Received: devices=-3"),
        ({"devices": 2.5}, r"Received: devices=2.5"),
        ({"global_batch_size": 0}, r"`global_batch_size` must be a whole number"),
        ({"global_batch_size": 63}, r"at least one image.*global_batch_size=63 on devices=64"),
        ({"accelerator": "A100"}, r"one of A10, A100-PCIe, A100-SXM.*'A100'. Did you mean A10"),
        ({"accelerator": "abacus"}, r"one of A10, .*V100-SXM. Received: 'abacus'.*--flops"),
        ({"model": "vgg"}, r"must be one of resnet18, .*alexnet_bn. Received: 'vgg'"),
        ({"model": "resnet18"}, r"Give the epochs"),
        ({"epochs": 0}, r"`epochs` must be above 0"),
        ({"epochs": math.nan}, r"`epochs` must be above 0"),
        ({"num_examples": -1}, r"`num_examples` must be above 0"),
        ({"price_per_device_hour": -1.0}, r"`price_per_device_hour` must be above 0"),
    ],
)
def test_bad_input_is_one_sentence_that_lists_what_is_known(changes, message):
    with pytest.raises(InputError, match=message) as error:
        planner.predict(**{**A100, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flops": 0}, "`flops` must be above 0"),
        ({"overlap": 1.5}, "`overlap` must be from 0 to 1"),
        ({"dtype": "int8"}, "`dtype` must be one of float32, bfloat16, float16"),
        ({"algorithm": "butterfly"}, "all-reduce must be one of ring"),
    ],
)
def test_hardware_that_cannot_be_is_refused(changes, message):
    sheet = dict(flops=1e14, memory_bandwidth=1e12, network=planner.networks()["edr"])
    with pytest.raises(InputError, match=message):
        planner.Hardware(**{**sheet, **changes})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.exhaustive if name in ("resnet101", "resnet152") else ()
        )
        for name in planner.workloads()
    ],
)
def test_the_cost_of_a_model_is_that_of_its_layers(name):
    import models

    size = 227 if name.startswith("alexnet") else 224
    counted = models.describe(models.create(name, num_classes=1000, image_size=size), size)
    known = planner.workload(name)
    assert known.forward_flops == pytest.approx(counted.forward_flops, rel=1e-3)
    assert known.parameters == counted.parameters
    assert known.training_flops == 3 * known.forward_flops


def test_the_planner_needs_no_tensorflow():
    source = (
        "import sys; from tf_lars import planner; "
        "planner.predict(accelerator='A30', devices=8, global_batch_size=1024); "
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True)

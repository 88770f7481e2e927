"""GPUs by name without TensorFlow, from an nvidia-smi that the test writes."""

import pytest

from tf_lars import machine, planner
from tf_lars.planner import gpu_names


@pytest.fixture
def host(tmp_path):
    """Returns a function that gives the environment of a machine with some nvidia-smi."""

    def make(script, visible=None):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return environment if visible is None else {**environment, "CUDA_VISIBLE_DEVICES": visible}

    return make


TWO = "printf 'Tesla P40, GPU-11\\nNVIDIA A40, GPU-22\\n'"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["Tesla P40", "NVIDIA A40"]),
        ("1", ["NVIDIA A40"]),
        ("1,0", ["NVIDIA A40", "Tesla P40"]),
        ("GPU-22", ["NVIDIA A40"]),
        ("0,7,1", ["Tesla P40"]),
        ("-1", []),
        ("", []),
        ("MIG-5", ["MIG"]),
    ],
)
def test_cuda_visible_devices_chooses(visible, names, host):
    assert machine.gpu_names(host(TWO, visible)) == names


def test_no_driver_means_no_gpus(host, tmp_path):
    assert machine.gpu_names(host("echo 'NVIDIA-SMI has failed'; exit 9")) == []
    assert machine.gpu_names({"PATH": str(tmp_path / "empty")}) == []


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-SXM"),
        ("A100-SXM4-40GB", "A100-SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIe"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200-SXM"),
        ("Tesla V100-SXM2-32GB", "V100-SXM"),
        ("Tesla V100-PCIE-16GB", "V100-PCIe"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA RTX A5000", "A5000"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA B200", None),
        ("MIG", None),
        ("", None),
    ],
)
def test_the_family_of_a_gpu(name, family):
    assert gpu_names.accelerator_of(name) == family


def test_every_family_is_one_that_the_planner_knows():
    assert {family for _, family in gpu_names._FAMILIES} <= set(planner.accelerators())

"""`launch.render_kubernetes` for TPUs: slices of GKE and the JobSets that train on them."""

import pytest

from launch.kubernetes import tpus
from tf_lars.errors import InputError

pytest.importorskip("kubeflow_trainer_api", reason="the published models are in the extra `test`")
pytest.importorskip("kubernetes_validate", reason="the published models are in the extra `test`")
from tests.helpers import manifests


def test_a_slice_of_one_host_trains_on_its_own_chips():
    manifest = manifests.tpus("tpu-v5-lite-podslice", "2x4")
    manifests.validate(manifest)
    assert list(manifests.replicated_jobs(manifest)) == ["worker"]
    assert manifests.container(manifest)["command"] == ["python", "-m", "launch.tpu"]
    assert manifests.container(manifest)["args"] == ["--tpu=local", "--epochs=50"]
    assert manifests.container(manifest)["resources"]["limits"] == {"google.com/tpu": "8"}
    assert manifests.pod(manifest)["securityContext"]["runAsNonRoot"]
    assert manifests.pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }


def test_a_slice_of_several_hosts_has_a_server_on_each_and_a_coordinator():
    manifest = manifests.tpus("tpu-v5-lite-podslice", "4x4")
    manifests.validate(manifest)
    jobs = manifests.replicated_jobs(manifest)
    assert list(jobs) == ["worker", "coordinator"]
    hosts = jobs["worker"]["template"]
    assert hosts["spec"]["completions"] == 4
    assert hosts["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert manifests.container(manifest)["resources"]["limits"] == {"google.com/tpu": "4"}
    assert manifests.container(manifest)["command"] == ["python", "-m", "launch.tpu_server"]
    assert manifests.container(manifest)["readinessProbe"]["tcpSocket"]["port"] == 8470

    coordinator = manifests.container(manifest, "coordinator")
    servers = ",".join(f"grpc://lars-worker-0-{i}.lars:8470" for i in range(4))
    assert coordinator["args"] == [f"--tpu={servers}", "--epochs=50"]
    assert {"name": "TPU_LOAD_LIBRARY", "value": "0"} in coordinator["env"]
    assert coordinator["resources"]["limits"] == {"memory": "16Gi"}
    assert "nodeSelector" not in manifests.pod(manifest, "coordinator")
    assert jobs["coordinator"]["dependsOn"] == [{"name": "worker", "status": "Ready"}]
    assert manifest["spec"]["successPolicy"]["targetReplicatedJobs"] == ["coordinator"]


@pytest.mark.parametrize("accelerator", tpus.ACCELERATORS)
def test_every_slice_has_whole_hosts(accelerator):
    for topology in tpus.ACCELERATORS[accelerator].topologies:
        found = tpus.tpu_slice(accelerator, topology)
        sides = [int(side) for side in topology.split("x")]
        assert len(sides) == (3 if accelerator in ("tpu-v4-podslice", "tpu-v5p-slice") else 2)
        chips = 1
        for side in sides:
            chips *= side
        assert found.num_hosts * found.chips_per_host == chips
        assert found.num_replicas == chips * (2 if "-v3-" in accelerator else 1)


def test_a_slice_that_comes_on_two_kinds_of_machine_can_be_chosen():
    assert tpus.tpu_slice("tpu-v6e-slice", "2x4").num_hosts == 1
    assert tpus.tpu_slice("tpu-v6e-slice", "2x4", 4).num_hosts == 2
    assert tpus.tpu_slice("tpu-v4-podslice", "4x8x12").num_hosts == 96
    for wrong in ("4x8x6", "8x4x4", "4x4", "", "x", "4x4x4x4"):
        with pytest.raises(InputError, match="--tpu_topology"):
            tpus.tpu_slice("tpu-v4-podslice", wrong)
    with pytest.raises(InputError, match="--tpu_chips_per_host"):
        tpus.tpu_slice("tpu-v6e-slice", "4x4", 8)

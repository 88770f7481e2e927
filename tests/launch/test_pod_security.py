"""What the pods of `launch.render_kubernetes` may do, and who may reach them."""

import re

import pytest

from launch.kubernetes import pod_resources, pod_security, volumes
from tests.helpers.paths import ROOT
from tf_lars.errors import InputError

pytest.importorskip("kubeflow_trainer_api", reason="the published models are in the extra `test`")
pytest.importorskip("kubernetes_validate", reason="the published models are in the extra `test`")
from tests.helpers import manifests

GIVEN = {
    "volumes": volumes.parse_all(["/data=gcs:imagenet:ro", "/runs=pvc:runs"]),
    "resources": pod_resources.pod_resources(8),
}
JOBSETS = {
    "gpus": manifests.gpus(**GIVEN),
    "one TPU host": manifests.tpus("tpu-v5-lite-podslice", "2x4", **GIVEN),
    "TPU hosts": manifests.tpus("tpu-v5-lite-podslice", "4x4", **GIVEN),
}
PODS = [
    pytest.param(manifest, job, id=f"{name}, {job}")
    for name, manifest in JOBSETS.items()
    for job in manifests.replicated_jobs(manifest)
]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected"}
VOLUMES |= {"persistentVolumeClaim", "secret"}


@pytest.mark.parametrize(("manifest", "job"), PODS)
def test_pods_fulfil_the_restricted_standard(manifest, job):
    # Kubernetes' page "Pod Security Standards", of which `restricted` includes `baseline`.
    manifests.validate(manifest)
    pod, container = manifests.pod(manifest, job), manifests.container(manifest, job)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all("hostPort" not in port for port in container.get("ports", []))
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= VOLUMES
    of_pod = pod["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["runAsUser"] != 0
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "sysctls" not in of_pod
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize(("manifest", "job"), PODS)
def test_every_container_has_a_memory_limit_and_reserves_what_it_needs(manifest, job):
    resources = manifests.container(manifest, job)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_pods_run_as_the_images_user_unless_another_owns_the_volumes():
    uid, gid = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M).groups()
    context = manifests.pod(manifests.gpus())["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(uid), int(gid))
    assert context["fsGroup"] == int(gid)
    context = manifests.pod(manifests.gpus(user=pod_security.PodUser.parse("0")))["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)
    assert pod_security.PodUser.parse("4711") == pod_security.PodUser(4711, 4711)
    assert pod_security.PodUser.parse("4711:100") == pod_security.PodUser(4711, 100)
    for wrong in ("", "root", "-1", "1:", ":1", "1:2:3", "2147483648", "1\n", "\u0661"):
        with pytest.raises(InputError, match="--user must be UID or UID:GID"):
            pod_security.PodUser.parse(wrong)


def _admits(policy, pod, peer):
    """Returns whether a policy lets a pod be reached from another pod of the namespace.

    Both are given by their labels. As in Kubernetes: a pod that a policy selects accepts what one
    of the policy's rules admits, on all ports if the rule names none.
    """

    def selects(selector, labels):
        return selector["matchLabels"].items() <= labels.items()

    spec = policy["spec"]
    if not selects(spec["podSelector"], pod) or "Ingress" not in spec["policyTypes"]:
        return True
    return any(
        "ports" not in rule and any(selects(one["podSelector"], peer) for one in rule["from"])
        for rule in spec["ingress"]
    )


def test_a_pod_is_reached_by_pods_of_its_jobset_alone_and_reaches_everything():
    policy = pod_security.network_policy("lars", "research")
    assert policy["metadata"] == {"name": "lars", "namespace": "research"}
    assert "namespace" not in pod_security.network_policy("lars", None)["metadata"]
    ours = {"jobset.sigs.k8s.io/jobset-name": "lars", "more": "labels"}
    other = {"jobset.sigs.k8s.io/jobset-name": "other"}
    assert _admits(policy, ours, ours)
    assert not _admits(policy, ours, other)
    assert not _admits(policy, ours, {})
    assert _admits(policy, other, {})
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(set(peer) == {"podSelector"} for peer in policy["spec"]["ingress"][0]["from"])


@pytest.mark.parametrize(
    ("given", "requests", "limits"),
    [
        ({}, {"cpu": "12", "memory": "48Gi"}, {"memory": "48Gi"}),
        ({"memory": "1Ti"}, {"cpu": "12", "memory": "1Ti"}, {"memory": "1Ti"}),
        ({"memory_limit": "0.5Ti"}, {"cpu": "12", "memory": "48Gi"}, {"memory": "0.5Ti"}),
        (
            {"cpu": "500m", "cpu_limit": "0.5", "memory": "1G", "memory_limit": "1000M"},
            {"cpu": "500m", "memory": "1G"},
            {"cpu": "0.5", "memory": "1000M"},
        ),
    ],
)
def test_requests_and_limits(given, requests, limits):
    assert pod_resources.pod_resources(4, **given) == pod_resources.PodResources(requests, limits)


def test_a_limit_below_the_request_is_refused():
    for wrong in (
        {"memory_limit": "47Gi"},
        {"cpu_limit": "11999m"},
        {"memory": "1Pi"} | {"memory_limit": "1P"},
    ):
        with pytest.raises(InputError, match="_limit must not be below what each pod requests"):
            pod_resources.pod_resources(4, **wrong)

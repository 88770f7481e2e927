"""JobSets that train on GPU nodes, one pod each, or on a TPU slice.

Manifests are plain dictionaries under the names of the Kubernetes API. A failed pod has these
consequences (exit codes: `tf_lars.errors`):

| pod ends with | JobSet |
|---|---|
| 2: bad input | fails, since a restart cannot help |
| 42: preempted after a checkpoint; or evicted by Kubernetes | restarts, any number of times |
| 75: a peer failed; or any other code | restarts, at most `max_restarts` times |

Whichever rule of its failure policy matches, a Job reports only "PodFailurePolicy" as the reason.
Its message ends with the index of the rule, which JobSet 0.10 and later can match.

References: Kubernetes API v1.31 (core/v1, batch/v1); JobSet API jobset.x-k8s.io/v1alpha2 as of
JobSet 0.10; kubernetes-sigs/jobset, keps/262-ConfigurableFailurePolicy.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from launch.kubernetes.pod_resources import PodResources
from launch.kubernetes.pod_security import (
    PodUser,
    container_security_context,
    pod_security_context,
)
from launch.kubernetes.tpus import Slice
from launch.kubernetes.volumes import GCS_ANNOTATIONS, MountedVolume
from tf_lars.cluster.platforms import PORT
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED

WORKER, COORDINATOR = "worker", "coordinator"
"""Names of replicated Jobs and of their containers."""
GPU, TPU = "nvidia.com/gpu", "google.com/tpu"
TPU_SERVER_PORT = 8470
"""Port that TensorFlow assumes for TPU servers whose address has none."""

_COORDINATOR_RESOURCES = {
    "requests": {"cpu": "4", "memory": "16Gi"},
    "limits": {"memory": "16Gi"},
}
"""The coordinator builds the graph and writes checkpoints and logs; the TPU hosts read the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Settings of a JobSet that do not depend on the accelerator.

    Attributes:
      name: Name of the JobSet.
      image: Container image with this repository; see Dockerfile.
      arguments: Training flags.
      namespace: Namespace of the JobSet; by default that of kubectl's context.
      volumes: Volumes that all pods mount.
      node_selector: Labels that nodes must have, in addition to those of the accelerator.
      tolerations: Tolerations of the pods, in addition to that of the accelerator's taint.
      resources: CPUs and memory of each pod with accelerators.
      shared_memory: Size of /dev/shm, through which NCCL's processes on a node communicate.
      priority_class: Priority class of the pods.
      queue: Local queue of Kueue, which starts all pods or none.
      service_account: Service account of the pods, for access to buckets; its token for
        Kubernetes' own API is not mounted.
      user: User of the processes in the pods.
      max_restarts: Maximum number of restarts after failures.
      grace_seconds: Time to save a checkpoint between SIGTERM and the end of a pod.
    """

    name: str
    image: str
    arguments: tuple[str, ...]
    namespace: str | None = None
    volumes: tuple[MountedVolume, ...] = ()
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    resources: PodResources = dataclasses.field(default_factory=PodResources)
    shared_memory: str = "16Gi"
    priority_class: str | None = None
    queue: str | None = None
    service_account: str | None = None
    user: PodUser = dataclasses.field(default_factory=PodUser)
    max_restarts: int = 10
    grace_seconds: int = 120


def longest_pod_name(name: str, pods: int) -> str:
    """Returns the longest pod name in a JobSet of this name, including its random suffix."""
    return max(f"{name}-{WORKER}-0-{pods - 1}-abcde", f"{name}-{COORDINATOR}-0-0-abcde", key=len)


def gpu_jobset(
    job: TrainingJob, *, nodes: int, gpus_per_node: int, startup_timeout: int
) -> dict[str, Any]:
    """Returns the JobSet of `launch.gpu_cluster`: one Indexed Job with one pod per GPU node.

    Args:
      job: Settings of the JobSet.
      nodes: Number of nodes.
      gpus_per_node: GPUs per node.
      startup_timeout: Seconds that the first pod waits for the last.
    """
    container = _trainer(
        job,
        WORKER,
        # The JobSet restarts all nodes; a node restarted alone would wait for the others in vain.
        ("launch.gpu_cluster", "--max_restarts=0", f"--startup_timeout={startup_timeout}"),
        env=[
            _from_label("JOBSET_NAME", "jobset-name"),
            _from_label("JOBSET_REPLICATED_JOB", "replicatedjob-name"),
            _from_label("JOBSET_JOB_INDEX", "job-index"),
            {"name": "JOBSET_NUM_PODS", "value": str(nodes)},
            {"name": "JOBSET_PORT", "value": str(PORT)},
        ],
        ports=[_port("tensorflow", PORT)],
        resources=_resources(job, {GPU: str(gpus_per_node)}),
    )
    name = "shared-memory"
    container["volumeMounts"] = [*_mounts(job), {"name": name, "mountPath": "/dev/shm"}]
    memory = {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}}
    template = _pod(
        job, container, node_selector=job.node_selector, taint=GPU, more_volumes=[memory]
    )
    return _jobset(job, [_replicated_job(WORKER, nodes, template)])


def tpu_jobset(job: TrainingJob, tpu: Slice) -> dict[str, Any]:
    """Returns the JobSet of `launch.tpu` on a TPU slice of GKE.

    On a slice with one host, a single pod trains on its own chips. On a slice with several hosts,
    a pod on each host serves its chips by gRPC (`launch.tpu_server`), and a coordinator without
    chips drives them all; the JobSet succeeds when the coordinator does.
    """
    selector = {
        **job.node_selector,
        "cloud.google.com/gke-tpu-accelerator": tpu.accelerator,
        "cloud.google.com/gke-tpu-topology": tpu.topology,
    }
    chips = _resources(job, {TPU: str(tpu.chips_per_host)})
    if tpu.num_hosts == 1:
        container = _trainer(job, WORKER, ("launch.tpu", "--tpu=local"), resources=chips)
        template = _pod(job, container, node_selector=selector, taint=TPU)
        return _jobset(job, [_replicated_job(WORKER, 1, template)])

    server = _without_empty(
        {
            "name": WORKER,
            "image": job.image,
            "command": ["python", "-m", "launch.tpu_server"],
            "args": [f"--port={TPU_SERVER_PORT}"],
            "ports": [_port("tpu", TPU_SERVER_PORT)],
            "resources": chips,
            "securityContext": container_security_context(),
            "volumeMounts": _mounts(job),
            "readinessProbe": {"tcpSocket": {"port": TPU_SERVER_PORT}, "periodSeconds": 5},
        }
    )
    hosts = _replicated_job(
        WORKER,
        tpu.num_hosts,
        _pod(job, server, node_selector=selector, taint=TPU),
        # A node pool of several hosts is one slice.
        annotations={
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        },
    )
    addresses = ",".join(
        f"grpc://{job.name}-{WORKER}-0-{host}.{job.name}:{TPU_SERVER_PORT}"
        for host in range(tpu.num_hosts)
    )
    container = _trainer(
        job,
        COORDINATOR,
        ("launch.tpu", f"--tpu={addresses}"),
        env=[{"name": "TPU_LOAD_LIBRARY", "value": "0"}],
        resources=_COORDINATOR_RESOURCES,
    )
    coordinator = _replicated_job(
        COORDINATOR,
        1,
        _pod(job, container, node_selector=job.node_selector),
        depends_on=[{"name": WORKER, "status": "Ready"}],
    )
    return _jobset(
        job,
        [hosts, coordinator],
        success_policy={"operator": "All", "targetReplicatedJobs": [COORDINATOR]},
    )


def _jobset(
    job: TrainingJob,
    replicated_jobs: list[dict[str, Any]],
    *,
    success_policy: dict[str, Any] | None = None,
) -> dict[str, Any]:
    metadata = {
        "name": job.name,
        "namespace": job.namespace,
        "labels": {"kueue.x-k8s.io/queue-name": job.queue} if job.queue else None,
    }
    # Indices into `_pod_failure_policy`.
    actions = {
        "bad_input": "FailJobSet",
        "preempted": "RestartJobSetAndIgnoreMaxRestarts",
        "disrupted": "RestartJobSetAndIgnoreMaxRestarts",
    }
    failure_policy = {
        "maxRestarts": job.max_restarts,
        # New workers must not meet the old ones at their addresses.
        "restartStrategy": "BlockingRecreate",
        "rules": [
            {
                "name": name,
                "action": action,
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": [f"matching FailJob rule at index {index}$"],
            }
            for index, (name, action) in enumerate(actions.items())
        ],
    }
    spec = {
        "replicatedJobs": replicated_jobs,
        "network": {"enableDNSHostnames": True},
        "failurePolicy": failure_policy,
        "successPolicy": success_policy,
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _without_empty(metadata),
        "spec": _without_empty(spec),
    }


def _pod_failure_policy(container: str) -> dict[str, Any]:
    """Returns the rules of a Job, in the order of their counterparts in `_jobset`."""

    def exit_code(code: int) -> dict[str, Any]:
        codes = {"containerName": container, "operator": "In", "values": [code]}
        return {"action": "FailJob", "onExitCodes": codes}

    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return {
        "rules": [
            exit_code(EXIT_BAD_INPUT),
            exit_code(EXIT_PREEMPTED),
            {"action": "FailJob", "onPodConditions": [disrupted]},
        ]
    }


def _replicated_job(
    name: str,
    pods: int,
    template: dict[str, Any],
    *,
    annotations: Mapping[str, str] | None = None,
    depends_on: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    spec = {
        "completions": pods,
        "parallelism": pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": _pod_failure_policy(name),
        "template": template,
    }
    metadata = {"annotations": annotations} if annotations else None
    replicated_job = {
        "name": name,
        "replicas": 1,
        "template": _without_empty({"spec": spec, "metadata": metadata}),
        "dependsOn": depends_on,
    }
    return _without_empty(replicated_job)


def _pod(
    job: TrainingJob,
    container: dict[str, Any],
    *,
    node_selector: Mapping[str, str],
    taint: str | None = None,
    more_volumes: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    tolerations = [dict(toleration) for toleration in job.tolerations]
    if taint:
        tolerations.insert(0, {"key": taint, "operator": "Exists", "effect": "NoSchedule"})
    volumes = [
        volume.volume(_volume_name(index), job.user) for index, volume in enumerate(job.volumes)
    ]
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "volumes": [*volumes, *more_volumes],
        "nodeSelector": dict(node_selector),
        "tolerations": tolerations,
        "priorityClassName": job.priority_class,
        "serviceAccountName": job.service_account,
        # Training never calls Kubernetes; buckets are reached through the node or a sidecar.
        "automountServiceAccountToken": False,
        "securityContext": pod_security_context(job.user),
    }
    has_buckets = any(volume.kind == "gcs" for volume in job.volumes)
    metadata = {"annotations": dict(GCS_ANNOTATIONS)} if has_buckets else None
    return _without_empty({"spec": _without_empty(spec), "metadata": metadata})


def _trainer(
    job: TrainingJob,
    name: str,
    program: Sequence[str],
    *,
    resources: dict[str, Any],
    env: list[dict[str, Any]] | None = None,
    ports: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    module, *flags = program
    container = {
        "name": name,
        "image": job.image,
        # No shell, so that the program itself receives SIGTERM.
        "command": ["python", "-m", module],
        # Kubernetes replaces $(NAME) in arguments, and $$ by $.
        "args": [*flags, *(argument.replace("$", "$$") for argument in job.arguments)],
        "env": env,
        "ports": ports,
        "resources": resources,
        "securityContext": container_security_context(),
        "volumeMounts": _mounts(job),
    }
    return _without_empty(container)


def _mounts(job: TrainingJob) -> list[dict[str, Any]]:
    return [volume.mount(_volume_name(index)) for index, volume in enumerate(job.volumes)]


def _volume_name(index: int) -> str:
    return f"volume-{index}"


def _port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "containerPort": port, "protocol": "TCP"}


def _resources(job: TrainingJob, devices: Mapping[str, str]) -> dict[str, Any]:
    """Returns the resources of a container; Kubernetes requests of devices what is their limit."""
    limits = {**job.resources.limits, **devices}
    return _without_empty({"requests": dict(job.resources.requests), "limits": limits})


def _from_label(variable: str, key: str) -> dict[str, Any]:
    field = {"fieldPath": f"metadata.labels['jobset.sigs.k8s.io/{key}']"}
    return {"name": variable, "valueFrom": {"fieldRef": field}}


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of an object, without those left to the cluster's defaults."""
    return {name: value for name, value in fields.items() if value not in (None, [], {})}

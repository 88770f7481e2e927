"""The parts of Kubernetes' API that a training JobSet needs, as frozen dataclasses.

Classes and fields have the API's names, fields in snake case. `manifest` turns an object into the
plain dictionaries and lists that `kubectl apply` reads as YAML or JSON; a field that is None is
left to the cluster's default.

Reference: Kubernetes API v1.31 (core/v1, batch/v1), JobSet API jobset.x-k8s.io/v1alpha2 as of
JobSet 0.10.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


def manifest(value: Any) -> Any:
    """Returns an object as dictionaries, lists and scalars under the API's names."""
    if dataclasses.is_dataclass(value):
        return {
            field.metadata.get("name", _camel_case(field.name)): manifest(content)
            for field in dataclasses.fields(value)
            if (content := getattr(value, field.name)) is not None
        }
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [manifest(item) for item in value]
    return value


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectMeta:
    """What an object is called and what is noted on it."""

    name: str | None = None
    namespace: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectFieldSelector:
    """A field of the pod's own object."""

    field_path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvVarSource:
    """Where a variable's value comes from."""

    field_ref: ObjectFieldSelector


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvVar:
    """A variable of a container's environment, by value or by source."""

    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourceRequirements:
    """Quantities by resource: what is reserved (requests), and the most that is given (limits)."""

    requests: Mapping[str, str] | None = None
    limits: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """Where a container sees a volume."""

    name: str
    mount_path: str
    read_only: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerPort:
    """A port that a container listens on; for readers and network policies."""

    name: str
    container_port: int
    protocol: str = "TCP"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TCPSocketAction:
    """A port to which a connection must succeed."""

    port: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """How Kubernetes finds out whether a container is ready."""

    tcp_socket: TCPSocketAction
    period_seconds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Container:
    """A program in a pod."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    resources: ResourceRequirements | None = None
    volume_mounts: tuple[VolumeMount, ...] | None = None
    readiness_probe: Probe | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmptyDirVolumeSource:
    """A folder that lives as long as its pod; in memory with the medium "Memory"."""

    medium: str | None = None
    size_limit: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostPathVolumeSource:
    """A folder of the node."""

    path: str
    type: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersistentVolumeClaimVolumeSource:
    """A claim of the namespace."""

    claim_name: str
    read_only: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSIVolumeSource:
    """A volume that a storage driver provides for the pod."""

    driver: str
    read_only: bool | None = None
    volume_attributes: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume of a pod; exactly one of the sources is set."""

    name: str
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    persistent_volume_claim: PersistentVolumeClaimVolumeSource | None = None
    csi: CSIVolumeSource | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint of nodes that does not keep the pod away."""

    key: str
    operator: str
    value: str | None = None
    effect: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodSpec:
    """The containers that share a pod, and where the pod may run."""

    containers: tuple[Container, ...]
    restart_policy: str
    termination_grace_period_seconds: int
    volumes: tuple[Volume, ...] | None = None
    node_selector: Mapping[str, str] | None = None
    tolerations: tuple[Toleration, ...] | None = None
    priority_class_name: str | None = None
    service_account_name: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodTemplateSpec:
    """What the pods of a Job are made from."""

    spec: PodSpec
    metadata: ObjectMeta | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodFailurePolicyOnExitCodesRequirement:
    """Exit codes of a container that a rule is about."""

    container_name: str
    operator: str
    values: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodFailurePolicyOnPodConditionsPattern:
    """A condition of the pod that a rule is about."""

    type: str
    status: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodFailurePolicyRule:
    """What a failed pod does to its Job; the first rule that matches decides."""

    action: str
    on_exit_codes: PodFailurePolicyOnExitCodesRequirement | None = None
    on_pod_conditions: tuple[PodFailurePolicyOnPodConditionsPattern, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodFailurePolicy:
    """What failed pods do to their Job."""

    rules: tuple[PodFailurePolicyRule, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Pods with an index each that must all succeed."""

    completions: int
    parallelism: int
    completion_mode: str
    backoff_limit: int
    pod_failure_policy: PodFailurePolicy
    template: PodTemplateSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobTemplateSpec:
    """What a Job is made from."""

    spec: JobSpec
    metadata: ObjectMeta | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DependsOn:
    """A replicated Job that must be "Ready" or "Complete" first."""

    name: str
    status: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicatedJob:
    """Jobs of one kind in a JobSet."""

    name: str
    replicas: int
    template: JobTemplateSpec
    depends_on: tuple[DependsOn, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Whether pods have names in DNS: <jobset>-<replicated job>-<job>-<pod>.<jobset>."""

    enable_dns_hostnames: bool = dataclasses.field(metadata={"name": "enableDNSHostnames"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuccessPolicy:
    """Which replicated Jobs must succeed for the JobSet to have succeeded."""

    operator: str
    target_replicated_jobs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailurePolicyRule:
    """What a failed Job does to the JobSet; the first rule that matches decides."""

    name: str
    action: str
    on_job_failure_reasons: tuple[str, ...]
    on_job_failure_message_patterns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """How often and how the JobSet starts again; where no rule matches, it does, and counts it."""

    max_restarts: int
    restart_strategy: str
    rules: tuple[FailurePolicyRule, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSetSpec:
    """Jobs that start, fail and end together."""

    replicated_jobs: tuple[ReplicatedJob, ...]
    network: Network
    failure_policy: FailurePolicy
    success_policy: SuccessPolicy | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSet:
    """A JobSet, as `kubectl apply` takes it."""

    api_version: str = "jobset.x-k8s.io/v1alpha2"
    kind: str = "JobSet"
    metadata: ObjectMeta
    spec: JobSetSpec

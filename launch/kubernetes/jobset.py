"""JobSets that train: one pod on each GPU node, or the hosts of a TPU slice.

What becomes of a failure (tf_lars.errors):

| a pod ends with | the JobSet |
|---|---|
| 2, bad input | fails; starting again cannot help |
| 42, preempted and saved, or Kubernetes evicts it | starts again, as often as it happens |
| 75, a peer failed, or anything else | starts again, at most `max_restarts` times |

A Job reports only "PodFailurePolicy" as the reason where one of its rules has matched; which one
stands at the end of its message. JobSet 0.10 and later can read that.

Reference: kubernetes-sigs/jobset, keps/262-ConfigurableFailurePolicy.
"""

import dataclasses
from collections.abc import Mapping

from launch.kubernetes import objects
from launch.kubernetes.tpus import Slice
from launch.kubernetes.volumes import GCS_ANNOTATIONS, MountedVolume
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED

WORKER, COORDINATOR = "worker", "coordinator"
"""Names of replicated Jobs, and of their containers."""
GPU, TPU = "nvidia.com/gpu", "google.com/tpu"
JOBSET_PORT = 2222
TPU_SERVER_PORT = 8470
"""The port of TPU servers that TensorFlow takes where an address has none."""

_JOBSET_KEYS = "jobset.sigs.k8s.io"
_COORDINATOR_RESOURCES = {"cpu": "4", "memory": "16Gi"}
"""It builds the graph, writes checkpoints and logs; data is read on the TPU's hosts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What does not depend on the accelerator.

    Attributes:
      name: of the JobSet.
      image: container image with this repository, see Dockerfile.
      arguments: training flags.
      namespace: by default that of kubectl's context.
      volumes: what all pods mount.
      node_selector: labels that nodes must have, besides those of the accelerator.
      tolerations: taints that do not matter, besides those of the accelerator.
      requests: CPUs and memory of each pod, as Kubernetes' quantities.
      shared_memory: size of /dev/shm, through which NCCL's processes on a node talk.
      priority_class: of the pods.
      queue: Kueue's local queue, which starts all pods or none.
      service_account: of the pods, for buckets.
      max_restarts: how often the JobSet starts again after a failure.
      grace_seconds: time between a pod's notice and its end, to save a checkpoint in.
    """

    name: str
    image: str
    arguments: tuple[str, ...]
    namespace: str | None = None
    volumes: tuple[MountedVolume, ...] = ()
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[objects.Toleration, ...] = ()
    requests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shared_memory: str = "16Gi"
    priority_class: str | None = None
    queue: str | None = None
    service_account: str | None = None
    max_restarts: int = 10
    grace_seconds: int = 120


def longest_pod_name(name: str, pods: int) -> str:
    """Returns the longest name of a pod that a JobSet of this name has, with its random end."""
    return max(f"{name}-{WORKER}-0-{pods - 1}-abcde", f"{name}-{COORDINATOR}-0-0-abcde", key=len)


def gpu_jobset(
    job: TrainingJob, *, nodes: int, gpus_per_node: int, startup_timeout: int
) -> objects.JobSet:
    """Returns the JobSet of `launch.gpu_cluster` on GPU nodes: one Indexed Job, one pod per node.

    Args:
      job: what to train.
      nodes: number of nodes.
      gpus_per_node: GPUs of each.
      startup_timeout: seconds that the first pod waits for the last.
    """
    container = _trainer(
        job,
        WORKER,
        # The JobSet starts all nodes again; a node alone would wait for the others in vain.
        ("launch.gpu_cluster", "--max_restarts=0", f"--startup_timeout={startup_timeout}"),
        environment=(
            _from_label("JOBSET_NAME", "jobset-name"),
            _from_label("JOBSET_REPLICATED_JOB", "replicatedjob-name"),
            _from_label("JOBSET_JOB_INDEX", "job-index"),
            objects.EnvVar(name="JOBSET_NUM_PODS", value=str(nodes)),
            objects.EnvVar(name="JOBSET_PORT", value=str(JOBSET_PORT)),
        ),
        ports=(objects.ContainerPort(name="tensorflow", container_port=JOBSET_PORT),),
        resources=_resources(job.requests, {GPU: str(gpus_per_node)}),
    )
    pod = _pod(job, container, node_selector=job.node_selector, taint=GPU, shared_memory=True)
    return _jobset(job, (_replicated_job(WORKER, nodes, pod),))


def tpu_jobset(job: TrainingJob, tpu: Slice) -> objects.JobSet:
    """Returns the JobSet of `launch.tpu` on a TPU slice of GKE.

    A slice of one host is one pod that trains on its own chips. On one of several hosts, a pod
    on each serves its chips by gRPC (`launch.tpu_server`), and a coordinator without chips
    drives them all; the JobSet is done when the coordinator is.
    """
    selector = {
        **job.node_selector,
        "cloud.google.com/gke-tpu-accelerator": tpu.accelerator,
        "cloud.google.com/gke-tpu-topology": tpu.topology,
    }
    chips = _resources(job.requests, {TPU: str(tpu.chips_per_host)})
    if tpu.num_hosts == 1:
        container = _trainer(job, WORKER, ("launch.tpu", "--tpu=local"), resources=chips)
        pod = _pod(job, container, node_selector=selector, taint=TPU)
        return _jobset(job, (_replicated_job(WORKER, 1, pod),))

    server = objects.Container(
        name=WORKER,
        image=job.image,
        command=("python", "-m", "launch.tpu_server"),
        args=(f"--port={TPU_SERVER_PORT}",),
        ports=(objects.ContainerPort(name="tpu", container_port=TPU_SERVER_PORT),),
        resources=chips,
        volume_mounts=_mounts(job),
        readiness_probe=objects.Probe(
            tcp_socket=objects.TCPSocketAction(port=TPU_SERVER_PORT), period_seconds=5
        ),
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
        environment=(objects.EnvVar(name="TPU_LOAD_LIBRARY", value="0"),),
        resources=_resources(_COORDINATOR_RESOURCES, {}),
    )
    coordinator = _replicated_job(
        COORDINATOR,
        1,
        _pod(job, container, node_selector=job.node_selector),
        depends_on=(objects.DependsOn(name=WORKER, status="Ready"),),
    )
    return _jobset(
        job,
        (hosts, coordinator),
        objects.SuccessPolicy(operator="All", target_replicated_jobs=(COORDINATOR,)),
    )


def _jobset(
    job: TrainingJob,
    replicated_jobs: tuple[objects.ReplicatedJob, ...],
    success_policy: objects.SuccessPolicy | None = None,
) -> objects.JobSet:
    labels = {"kueue.x-k8s.io/queue-name": job.queue} if job.queue else None
    return objects.JobSet(
        metadata=objects.ObjectMeta(name=job.name, namespace=job.namespace, labels=labels),
        spec=objects.JobSetSpec(
            replicated_jobs=replicated_jobs,
            network=objects.Network(enable_dns_hostnames=True),
            success_policy=success_policy,
            failure_policy=objects.FailurePolicy(
                max_restarts=job.max_restarts,
                # The next workers must not meet the last ones at their addresses.
                restart_strategy="BlockingRecreate",
                rules=tuple(
                    objects.FailurePolicyRule(
                        name=name,
                        action=action,
                        on_job_failure_reasons=("PodFailurePolicy",),
                        on_job_failure_message_patterns=(f"matching FailJob rule at index {i}$",),
                    )
                    for i, (name, action) in enumerate(
                        (
                            ("bad_input", "FailJobSet"),
                            ("preempted", "RestartJobSetAndIgnoreMaxRestarts"),
                            ("disrupted", "RestartJobSetAndIgnoreMaxRestarts"),
                        )
                    )
                ),
            ),
        ),
    )


def _pod_failure_policy(container: str) -> objects.PodFailurePolicy:
    """Returns the rules of a Job, in the order in which `_jobset` names them."""

    def exit_code(code: int) -> objects.PodFailurePolicyRule:
        return objects.PodFailurePolicyRule(
            action="FailJob",
            on_exit_codes=objects.PodFailurePolicyOnExitCodesRequirement(
                container_name=container, operator="In", values=(code,)
            ),
        )

    disrupted = objects.PodFailurePolicyOnPodConditionsPattern(
        type="DisruptionTarget", status="True"
    )
    return objects.PodFailurePolicy(
        rules=(
            exit_code(EXIT_BAD_INPUT),
            exit_code(EXIT_PREEMPTED),
            objects.PodFailurePolicyRule(action="FailJob", on_pod_conditions=(disrupted,)),
        )
    )


def _replicated_job(
    name: str,
    pods: int,
    template: objects.PodTemplateSpec,
    *,
    annotations: Mapping[str, str] | None = None,
    depends_on: tuple[objects.DependsOn, ...] | None = None,
) -> objects.ReplicatedJob:
    spec = objects.JobSpec(
        completions=pods,
        parallelism=pods,
        completion_mode="Indexed",
        backoff_limit=0,
        pod_failure_policy=_pod_failure_policy(name),
        template=template,
    )
    metadata = objects.ObjectMeta(annotations=annotations) if annotations else None
    return objects.ReplicatedJob(
        name=name,
        replicas=1,
        depends_on=depends_on,
        template=objects.JobTemplateSpec(metadata=metadata, spec=spec),
    )


def _pod(
    job: TrainingJob,
    container: objects.Container,
    *,
    node_selector: Mapping[str, str],
    taint: str | None = None,
    shared_memory: bool = False,
) -> objects.PodTemplateSpec:
    volumes = tuple(v.volume(_volume_name(i)) for i, v in enumerate(job.volumes))
    if shared_memory:
        memory = objects.EmptyDirVolumeSource(medium="Memory", size_limit=job.shared_memory)
        volumes = (*volumes, objects.Volume(name="shared-memory", empty_dir=memory))
        mount = objects.VolumeMount(name="shared-memory", mount_path="/dev/shm")
        container = dataclasses.replace(
            container, volume_mounts=(*(container.volume_mounts or ()), mount)
        )
    tolerations = job.tolerations
    if taint:
        own = objects.Toleration(key=taint, operator="Exists", effect="NoSchedule")
        tolerations = (own, *tolerations)
    buckets = any(volume.kind == "gcs" for volume in job.volumes)
    return objects.PodTemplateSpec(
        metadata=objects.ObjectMeta(annotations=GCS_ANNOTATIONS) if buckets else None,
        spec=objects.PodSpec(
            containers=(container,),
            restart_policy="Never",
            termination_grace_period_seconds=job.grace_seconds,
            volumes=volumes or None,
            node_selector=node_selector or None,
            tolerations=tolerations or None,
            priority_class_name=job.priority_class,
            service_account_name=job.service_account,
        ),
    )


def _trainer(
    job: TrainingJob,
    name: str,
    program: tuple[str, ...],
    *,
    resources: objects.ResourceRequirements,
    environment: tuple[objects.EnvVar, ...] | None = None,
    ports: tuple[objects.ContainerPort, ...] | None = None,
) -> objects.Container:
    module, *flags = program
    return objects.Container(
        name=name,
        image=job.image,
        # Without a shell, so that the notice of the pod's end (SIGTERM) reaches the program.
        command=("python", "-m", module),
        # Kubernetes replaces $(NAME) in arguments, and $$ by $.
        args=(*flags, *(argument.replace("$", "$$") for argument in job.arguments)),
        env=environment,
        ports=ports,
        resources=resources,
        volume_mounts=_mounts(job),
    )


def _mounts(job: TrainingJob) -> tuple[objects.VolumeMount, ...] | None:
    return tuple(v.mount(_volume_name(i)) for i, v in enumerate(job.volumes)) or None


def _volume_name(index: int) -> str:
    return f"volume-{index}"


def _resources(
    requests: Mapping[str, str], limits: Mapping[str, str]
) -> objects.ResourceRequirements:
    return objects.ResourceRequirements(requests=requests or None, limits=limits or None)


def _from_label(variable: str, key: str) -> objects.EnvVar:
    field = objects.ObjectFieldSelector(field_path=f"metadata.labels['{_JOBSET_KEYS}/{key}']")
    return objects.EnvVar(name=variable, value_from=objects.EnvVarSource(field_ref=field))

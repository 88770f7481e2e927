"""Settings of `launch.render_kubernetes`, apart from those of training."""

import dataclasses
import re

from launch.kubernetes import tpus
from launch.kubernetes.pod_resources import CPUS_PER_DEVICE, GIB_PER_DEVICE, QUANTITY
from tf_lars.setting import Rule, check, restarts, seconds_to_wait, setting, within

JOBSET, NODES, PODS = "JobSet", "Nodes", "Pods"
"""Groups of settings in `--help`."""


def _matches(pattern: str, words: str) -> Rule:
    return Rule(words, lambda text: re.fullmatch(pattern, text) is not None)


_IMAGE = _matches(r"\S+", "a container image, such as one built with the Dockerfile")
_LABEL = _matches(
    r"[a-z]([a-z0-9-]*[a-z0-9])?",
    "lower-case letters, digits and hyphens, starting with a letter and not ending with a hyphen",
)
_NAME = _matches(
    r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
    "a name of Kubernetes: lower-case letters, digits, hyphens and dots",
)
_QUANTITY = _matches(QUANTITY, "a Kubernetes quantity, such as 16, 500m or 64Gi")


@dataclasses.dataclass(frozen=True)
class JobSetSettings:
    """Settings of a JobSet; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    name: str = setting("Name of the JobSet.", "tf-lars", rule=_LABEL, group=JOBSET)
    namespace: str | None = setting(
        "Namespace of the JobSet. By default that of kubectl's context.",
        None,
        rule=_LABEL,
        group=JOBSET,
    )
    image: str = setting(
        "Container image with this repository; see Dockerfile.", "", rule=_IMAGE, group=JOBSET
    )
    queue: str | None = setting(
        "Local queue of Kueue, which starts all pods or none.", None, rule=_NAME, group=JOBSET
    )
    max_restarts: int = setting(
        "Maximum number of restarts after failures. Preemptions do not count, and bad input is "
        "never retried.",
        10,
        rule=restarts(),
        group=JOBSET,
    )
    startup_timeout: int = setting(
        "Seconds that the first GPU node waits for the last; the cluster may have to add machines.",
        1800,
        rule=seconds_to_wait(),
        group=JOBSET,
    )
    output: str | None = setting(
        "File to write. By default the JobSet is printed.", None, group=JOBSET
    )
    nodes: int | None = setting(
        "Number of GPU nodes; each runs one pod.", None, rule=within(1, 100_000), group=NODES
    )
    gpus_per_node: int = setting("GPUs per node.", 8, rule=within(1, 1000), group=NODES)
    tpu_accelerator: str | None = setting(
        f"Use a TPU slice of GKE instead of GPUs: {', '.join(tpus.ACCELERATORS)}.",
        None,
        group=NODES,
    )
    tpu_topology: str | None = setting(
        "Topology of the slice, such as 2x4 or 2x2x2.", None, group=NODES
    )
    tpu_chips_per_host: int | None = setting(
        "4 or 8, for a 2x4 slice, which has hosts of either size. By default 8.",
        None,
        rule=within(1, 8),
        group=NODES,
    )
    node_selector: tuple[str, ...] = setting(
        "LABEL=VALUE that nodes must have.", (), group=NODES, repeatable=True
    )
    toleration: tuple[str, ...] = setting(
        "Taint that pods tolerate, as KEY[=VALUE][:EFFECT].", (), group=NODES, repeatable=True
    )
    volume: tuple[str, ...] = setting(
        "Volume to mount: PATH=pvc:CLAIM, PATH=hostPath:FOLDER or PATH=gcs:BUCKET, followed by :ro "
        "if read-only.",
        (),
        group=PODS,
        repeatable=True,
    )
    cpu: str | None = setting(
        "CPUs that each pod with accelerators requests. By default "
        f"{CPUS_PER_DEVICE} per GPU or TPU chip.",
        None,
        rule=_QUANTITY,
        group=PODS,
    )
    cpu_limit: str | None = setting(
        "Most CPUs that each of these pods gets. By default all that are idle.",
        None,
        rule=_QUANTITY,
        group=PODS,
    )
    memory: str | None = setting(
        "Memory that each pod with accelerators requests, such as 256Gi. By default "
        f"{GIB_PER_DEVICE}Gi per GPU or TPU chip.",
        None,
        rule=_QUANTITY,
        group=PODS,
    )
    memory_limit: str | None = setting(
        "Memory, with that of /dev/shm, above which each of these pods is ended. By default what "
        "it requests.",
        None,
        rule=_QUANTITY,
        group=PODS,
    )
    shared_memory: str = setting(
        "Size of /dev/shm on GPU nodes.", "16Gi", rule=_QUANTITY, group=PODS
    )
    priority_class: str | None = setting(
        "Priority class of the pods.", None, rule=_NAME, group=PODS
    )
    service_account: str | None = setting(
        "Service account of the pods, for access to buckets.", None, rule=_NAME, group=PODS
    )
    user: str = setting(
        "UID or UID:GID, in numbers, that the processes in the pods run as: the image's user, or "
        "the owner of the volumes if only that one can write to them.",
        "1000",
        group=PODS,
    )
    grace_seconds: int = setting(
        "Seconds to save a checkpoint between SIGTERM and the end of a pod.",
        120,
        rule=seconds_to_wait(),
        group=PODS,
    )

    def __post_init__(self):
        check(self)

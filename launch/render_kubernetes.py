"""Renders a Kubernetes JobSet for a training run as YAML; nothing is sent to a cluster.

A NetworkPolicy comes first, which admits the pods of the JobSet alone to each other's ports.

python -m launch.render_kubernetes --nodes=8 --image=IMAGE --volume=/data=pvc:DATA:ro \\
    --volume=/runs=pvc:RUNS --data_dir=/data/imagenet --model_dir=/runs/first \\
    --global_batch_size=16384 | kubectl apply -f -

Paths are those in the container. All training flags given here are passed to every pod.
"""

import math
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from absl import flags as absl_flags

import models
from launch.cli import app, flags, recipe_flag
from launch.kubernetes import jobset, pod_resources, pod_security, tpus, volumes
from launch.kubernetes.jobset_settings import JobSetSettings
from launch.run.settings import TrainingSettings
from tf_lars import files
from tf_lars.data import order
from tf_lars.errors import EXIT_DONE, InputError, require

MAX_NAME = 63
"""Maximum length of a DNS label; Kubernetes refuses longer names."""


def define() -> list[str]:
    """Defines the flags of the JobSet and of training; returns the names of the latter."""
    flags.define(JobSetSettings)
    before = set(absl_flags.FLAGS)
    flags.define(TrainingSettings)
    recipe_flag.define()
    return sorted(set(absl_flags.FLAGS) - before)


def main(training_flags: Sequence[str]) -> int:
    """Checks everything that can be checked without the cluster and writes the JobSet."""
    settings = JobSetSettings(**flags.values(JobSetSettings))
    training = _training_settings()
    tpu = _tpu(settings, flags.given(["gpus_per_node"]))
    if tpu:
        pods, replicas = tpu.num_hosts, tpu.num_replicas
    elif settings.nodes is not None:
        pods, replicas = settings.nodes, settings.nodes * settings.gpus_per_node
    else:
        raise InputError(
            "--nodes, or --tpu_accelerator and --tpu_topology, must be given. Received: neither."
        )
    mounted = volumes.parse_all(settings.volume)
    _check_pod_names(settings.name, pods)
    _check_training(training, replicas)
    _check_folders(training, mounted)
    if not training.data:
        _warn_of_data_in_no_volume(training.data_dir, mounted)
    job = jobset.TrainingJob(
        name=settings.name,
        image=settings.image,
        arguments=_arguments(training_flags),
        namespace=settings.namespace,
        volumes=mounted,
        node_selector=dict(_node_label(text) for text in settings.node_selector),
        tolerations=tuple(_toleration(text) for text in settings.toleration),
        resources=pod_resources.pod_resources(
            tpu.chips_per_host if tpu else settings.gpus_per_node,
            cpu=settings.cpu,
            memory=settings.memory,
            cpu_limit=settings.cpu_limit,
            memory_limit=settings.memory_limit,
        ),
        shared_memory=settings.shared_memory,
        priority_class=settings.priority_class,
        queue=settings.queue,
        service_account=settings.service_account,
        user=pod_security.PodUser.parse(settings.user),
        max_restarts=settings.max_restarts,
        grace_seconds=settings.grace_seconds,
    )
    if tpu:
        manifest = jobset.tpu_jobset(job, tpu)
    else:
        manifest = jobset.gpu_jobset(
            job,
            nodes=pods,
            gpus_per_node=settings.gpus_per_node,
            startup_timeout=settings.startup_timeout,
        )
    policy = pod_security.network_policy(settings.name, settings.namespace)
    # The policy first, so that it is there before the pods.
    _write(_as_yaml([policy, manifest], sys.argv[1:]), settings.output)
    return EXIT_DONE


def _training_settings() -> TrainingSettings:
    values = flags.values(TrainingSettings)
    # With --recipe=auto the pods choose the warm-up, from data that is not available here.
    if recipe_flag.wanted() and not flags.given(["warmup_epochs"]):
        values["warmup_epochs"] = 0.0
    settings = TrainingSettings(**values)
    if settings.resume == "never":
        raise InputError(
            "Restarted pods must resume. Received: --resume=never. Use another --model_dir to "
            "start afresh."
        )
    return settings


def _arguments(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(absl_flags.FLAGS[name].serialize() for name in flags.given(names))


def _as_yaml(manifests: Sequence[dict[str, Any]], arguments: Sequence[str]) -> str:
    """Returns manifests as YAML below a comment with the command that rendered them."""
    command = f"python -m launch.render_kubernetes {shlex.join(arguments)}"
    # A line break in an argument would end the comment.
    comment = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in command)
    return f"# {comment}\n{yaml.safe_dump_all(manifests, sort_keys=False, width=math.inf)}"


def _write(text: str, path: str | None) -> None:
    if path is None:
        print(text, end="")
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(
            f"--output must be a writable file. Received: {path!r} ({error.strerror})."
        ) from error


def _tpu(settings: JobSetSettings, given_gpus: Sequence[str]) -> tpus.Slice | None:
    accelerator, topology = settings.tpu_accelerator, settings.tpu_topology
    if not accelerator and not topology:
        return None
    if not accelerator or not topology:
        alone = "--tpu_accelerator" if accelerator else "--tpu_topology"
        raise InputError(
            f"A TPU slice needs --tpu_accelerator and --tpu_topology. Received: {alone} alone."
        )
    if given_gpus:
        raise InputError("Pods have GPUs or TPUs. Received: --gpus_per_node and --tpu_accelerator.")
    found = tpus.tpu_slice(accelerator, topology, settings.tpu_chips_per_host)
    if settings.nodes not in (None, found.num_hosts):
        raise InputError(
            f"A {topology} slice of {accelerator} with {found.chips_per_host} chips per host has "
            f"{found.num_hosts} nodes. Received: --nodes={settings.nodes}. Leave it out."
        )
    return found


def _check_pod_names(name: str, pods: int) -> None:
    excess = len(jobset.longest_pod_name(name, pods)) - MAX_NAME
    if excess > 0:
        raise InputError(
            f"Pod names, which contain --name, must have at most {MAX_NAME} characters. Received: "
            f"{name!r}, {excess} characters too long."
        )


def _check_training(settings: TrainingSettings, replicas: int) -> None:
    if ":" not in settings.model:  # a user's model is in the image
        models.check(
            settings.model,
            space_to_depth_stem=settings.space_to_depth_stem,
            any_image_size=bool(settings.image_size_schedule),
        )
    order.shares(settings.batches, replicas)
    if settings.evaluation_batch_size:
        order.per_replica_batch_size(settings.evaluation_batch_size, replicas)


def _check_folders(settings: TrainingSettings, mounted: Sequence[volumes.MountedVolume]) -> None:
    rule = "an absolute path in the container"
    if not settings.data:
        require(settings.data_dir.startswith("/"), "--data_dir", rule, settings.data_dir)
    if files.is_remote(settings.model_dir):
        return
    require(settings.model_dir.startswith("/"), "--model_dir", rule, settings.model_dir)
    holders = [volume for volume in mounted if volume.holds(settings.model_dir)]
    if not holders or max(holders, key=lambda volume: len(volume.path)).read_only:
        paths = ", ".join(v.path + (" (read-only)" if v.read_only else "") for v in mounted)
        raise InputError(
            "--model_dir must lie in a writable --volume, since other folders are lost with the "
            f"pod. Received: {settings.model_dir!r} with {paths or 'no --volume'}."
        )


def _warn_of_data_in_no_volume(data_dir: str, mounted: Sequence[volumes.MountedVolume]) -> None:
    if not any(volume.holds(data_dir) for volume in mounted):
        print(
            f"warning: --data_dir lies in no --volume, so the image must contain {data_dir!r}.",
            file=sys.stderr,
        )


def _node_label(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([\w./-]+)=([\w.-]*)", text, flags=re.ASCII)
    require(match, "--node_selector", "LABEL=VALUE", text)
    assert match
    return match[1], match[2]


def _toleration(text: str) -> dict[str, str]:
    match = re.fullmatch(
        r"([\w./-]+)(?:=([\w.-]*))?(?::(NoSchedule|PreferNoSchedule|NoExecute))?",
        text,
        flags=re.ASCII,
    )
    if not match:
        raise InputError(
            "--toleration must be KEY[=VALUE][:EFFECT], with the effect NoSchedule, "
            f"PreferNoSchedule or NoExecute. Received: {text!r}."
        )
    key, value, effect = match.groups()
    fields = {
        "key": key,
        "operator": "Exists" if value is None else "Equal",
        "value": value,
        "effect": effect,
    }
    return {name: field for name, field in fields.items() if field is not None}


if __name__ == "__main__":
    names = define()
    app.run(lambda: main(names))

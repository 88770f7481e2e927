"""A Kubernetes JobSet for a training run, as YAML; nothing is sent to a cluster.

python -m launch.render_kubernetes --nodes=8 --image=IMAGE --volume=/data=pvc:DATA:ro \\
    --volume=/runs=pvc:RUNS --data_dir=/data/imagenet --model_dir=/runs/first \\
    --global_batch_size=16384 | kubectl apply -f -

Paths are those in the container. Training flags that are given go to every pod.
"""

import math
import re
import shlex
import sys

import yaml
from absl import flags as absl_flags

import models
from launch.cli import app, flags, recipe_flag
from launch.kubernetes import jobset, objects, tpus, volumes
from launch.run.settings import TrainingSettings
from tf_lars.data import order
from tf_lars.errors import EXIT_DONE, InputError

FLAGS = absl_flags.FLAGS

_LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"
_QUANTITY = r"\d+(\.\d+)?(m|[kMGTP]i?|Ki)?"
MAX_NAME = 63
"""Characters of a name in DNS; Kubernetes refuses longer ones."""


def define() -> list[str]:
    """Defines the program's flags and those of training, and returns the names of the latter."""
    absl_flags.DEFINE_string("name", "tf-lars", "Name of the JobSet.")
    absl_flags.DEFINE_string("namespace", None, "By default that of kubectl's context.")
    absl_flags.DEFINE_string("image", None, "Container image with this repository: see Dockerfile.")
    absl_flags.DEFINE_integer("nodes", None, "GPU nodes; each runs one pod.")
    absl_flags.DEFINE_integer("gpus_per_node", 8, "GPUs of each node.")
    absl_flags.DEFINE_string(
        "tpu_accelerator", None, f"A TPU slice of GKE instead: {', '.join(tpus.ACCELERATORS)}."
    )
    absl_flags.DEFINE_string("tpu_topology", None, "Shape of the slice, such as 2x4 or 2x2x2.")
    absl_flags.DEFINE_integer(
        "tpu_chips_per_host", None, "4 or 8, where a 2x4 slice comes on either kind of machine."
    )
    absl_flags.DEFINE_multi_string(
        "volume",
        [],
        "PATH=pvc:CLAIM, PATH=hostPath:FOLDER or PATH=gcs:BUCKET, with :ro at the end to only read "
        "it; repeatable.",
    )
    absl_flags.DEFINE_multi_string("node_selector", [], "LABEL=VALUE that nodes have; repeatable.")
    absl_flags.DEFINE_multi_string(
        "toleration", [], "Taint that does not matter: KEY[=VALUE][:EFFECT]; repeatable."
    )
    absl_flags.DEFINE_string("cpu", None, "CPUs that each pod with accelerators reserves.")
    absl_flags.DEFINE_string("memory", None, "Memory that each of them reserves, such as 256Gi.")
    absl_flags.DEFINE_string("shared_memory", "16Gi", "Size of /dev/shm on GPU nodes.")
    absl_flags.DEFINE_string("priority_class", None, "Priority class of the pods.")
    absl_flags.DEFINE_string("queue", None, "Kueue's local queue, which starts all pods or none.")
    absl_flags.DEFINE_string("service_account", None, "Of the pods, for access to buckets.")
    absl_flags.DEFINE_integer(
        "max_restarts",
        10,
        "How often the JobSet starts again after failures; preemptions do not count, and bad input "
        "is never tried again.",
    )
    absl_flags.DEFINE_integer(
        "grace_seconds", 120, "Between a pod's notice and its end, to save a checkpoint in."
    )
    absl_flags.DEFINE_integer(
        "startup_timeout",
        1800,
        "Seconds that the first GPU node waits for the last; a cluster may have to add machines.",
    )
    absl_flags.DEFINE_string("output", None, "File to write; by default standard output.")
    own = set(FLAGS)
    flags.define(TrainingSettings)
    recipe_flag.define()
    return sorted(set(FLAGS) - own)


def main(training_flags: list[str]) -> int:
    """Checks what can be checked from here, and prints the JobSet."""
    # With --recipe=auto it is the pods that choose, from data that is not here.
    unknown = FLAGS.recipe == "auto" and not FLAGS["warmup_epochs"].present
    values = flags.values(TrainingSettings)
    settings = TrainingSettings(**(values | {"warmup_epochs": 0.0} if unknown else values))
    if settings.resume == "never":
        raise InputError(
            "Pods that are started again must go on. Received: --resume=never, with which each "
            "would start anew. Name another --model_dir instead."
        )
    arguments = tuple(FLAGS[n].serialize() for n in training_flags if FLAGS[n].present)
    mounted = volumes.parse_all(FLAGS.volume)
    tpu = _tpu()
    pods = tpu.num_hosts if tpu else _at_least_one("nodes")
    _check_names(pods)
    _check_quantities("cpu", "memory", "shared_memory")
    _check_training(settings, mounted, tpu.num_replicas if tpu else pods * _gpus())
    job = jobset.TrainingJob(
        name=FLAGS.name,
        image=FLAGS.image,
        arguments=arguments,
        namespace=FLAGS.namespace,
        volumes=mounted,
        node_selector=dict(_node_label(text) for text in FLAGS.node_selector),
        tolerations=tuple(_toleration(text) for text in FLAGS.toleration),
        requests={n: q for n in ("cpu", "memory") if (q := getattr(FLAGS, n)) is not None},
        shared_memory=FLAGS.shared_memory,
        priority_class=FLAGS.priority_class,
        queue=FLAGS.queue,
        service_account=FLAGS.service_account,
        max_restarts=_at_least("max_restarts", 0),
        grace_seconds=_at_least("grace_seconds", 1),
    )
    if tpu:
        rendered = jobset.tpu_jobset(job, tpu)
    else:
        rendered = jobset.gpu_jobset(
            job,
            nodes=pods,
            gpus_per_node=_gpus(),
            startup_timeout=_at_least("startup_timeout", 1),
        )
    _write(_as_yaml(rendered))
    return EXIT_DONE


def _as_yaml(rendered: objects.JobSet) -> str:
    made = f"# python -m launch.render_kubernetes {shlex.join(sys.argv[1:])}\n"
    return made + yaml.safe_dump(objects.manifest(rendered), sort_keys=False, width=math.inf)


def _write(text: str) -> None:
    if FLAGS.output is None:
        print(text, end="")
        return
    try:
        with open(FLAGS.output, "w") as file:
            file.write(text)
    except OSError as error:
        raise InputError(
            f"--output must be a file that can be written. Received: {FLAGS.output!r} "
            f"({error.strerror})."
        ) from error


def _tpu() -> tpus.Slice | None:
    names = ("tpu_accelerator", "tpu_topology")
    given = [name for name in names if getattr(FLAGS, name)]
    if not given:
        return None
    if len(given) == 1:
        raise InputError(
            f"A TPU slice has --tpu_accelerator and --tpu_topology. Received: --{given[0]} alone."
        )
    if FLAGS["gpus_per_node"].present:
        raise InputError("Pods have GPUs or TPUs. Received: --gpus_per_node and --tpu_accelerator.")
    found = tpus.tpu_slice(FLAGS.tpu_accelerator, FLAGS.tpu_topology, FLAGS.tpu_chips_per_host)
    if FLAGS.nodes not in (None, found.num_hosts):
        raise InputError(
            f"A {found.topology} slice of {found.accelerator} with {found.chips_per_host} chips "
            f"per host has {found.num_hosts} nodes. Received: --nodes={FLAGS.nodes}. Leave it out."
        )
    return found


def _gpus() -> int:
    return _at_least_one("gpus_per_node")


def _at_least_one(name: str) -> int:
    if getattr(FLAGS, name) is None:
        raise InputError(
            f"--{name}, or --tpu_accelerator and --tpu_topology, must be given. Received: none."
        )
    return _at_least(name, 1)


def _at_least(name: str, least: int) -> int:
    value = getattr(FLAGS, name)
    if value < least:
        raise InputError(f"--{name} must be at least {least}. Received: {value}.")
    return value


def _check_quantities(*names: str) -> None:
    for name in names:
        value = getattr(FLAGS, name)
        if value is not None and not re.fullmatch(_QUANTITY, value):
            raise InputError(
                f"--{name} must be a quantity of Kubernetes, such as 16, 500m or 64Gi. Received: "
                f"{value!r}."
            )


def _check_names(pods: int) -> None:
    if not FLAGS.image or not re.fullmatch(r"\S+", FLAGS.image):
        raise InputError(
            f"--image must name a container image. Received: {FLAGS.image!r}. Build one with the "
            "Dockerfile of this repository."
        )
    for name in ("name", "namespace"):
        value = getattr(FLAGS, name)
        if value is not None and not re.fullmatch(_LABEL, value):
            raise InputError(
                f"--{name} must be of small letters, digits and hyphens, with a letter first and "
                f"no hyphen last. Received: {value!r}."
            )
    excess = len(jobset.longest_pod_name(FLAGS.name, pods)) - MAX_NAME
    if excess > 0:
        raise InputError(
            f"Names of pods must have at most {MAX_NAME} characters, and --name becomes a part of "
            f"them. Received: {FLAGS.name!r}, {excess} too many."
        )


def _check_training(
    settings: TrainingSettings, mounted: tuple[volumes.MountedVolume, ...], replicas: int
) -> None:
    if ":" not in settings.model:  # a model of one's own is in the image
        models.check(
            settings.model,
            space_to_depth_stem=settings.space_to_depth_stem,
            any_image_size=bool(settings.image_size_schedule),
        )
    order.per_replica_batch_size(settings.global_batch_size, replicas)
    if settings.evaluation_batch_size:
        order.per_replica_batch_size(settings.evaluation_batch_size, replicas)
    for name in ("data_dir", "model_dir"):
        path = getattr(settings, name)
        if not path.startswith("/"):
            raise InputError(
                f"--{name} must be an absolute path in the container. Received: {path!r}."
            )
    holder = [volume for volume in mounted if volume.holds(settings.model_dir)]
    if not holder or max(holder, key=lambda volume: len(volume.path)).read_only:
        raise InputError(
            "--model_dir must lie in a --volume that can be written to: what is written elsewhere "
            f"ends with its pod. Received: {settings.model_dir!r} with "
            f"{', '.join(FLAGS.volume) or 'no --volume'}."
        )


def _node_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--node_selector must be LABEL=VALUE. Received: {text!r}.")
    return key, value


def _toleration(text: str) -> objects.Toleration:
    match = re.fullmatch(
        r"([\w./-]+)(?:=([\w.-]*))?(?::(NoSchedule|PreferNoSchedule|NoExecute))?", text
    )
    if not match:
        raise InputError(
            "--toleration must be KEY[=VALUE][:EFFECT], with the effect NoSchedule, "
            f"PreferNoSchedule or NoExecute. Received: {text!r}."
        )
    key, value, effect = match.groups()
    operator = "Exists" if value is None else "Equal"
    return objects.Toleration(key=key, operator=operator, value=value, effect=effect)


if __name__ == "__main__":
    names = define()
    app.run(lambda: main(names))

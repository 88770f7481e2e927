"""What the variables of training platforms say about the workers of a job, and which one this is.

| variable | set by | ranks |
|---|---|---|
| TF_CONFIG | Vertex AI, Kubeflow's TFJob, `launch.local` and others | the chief, then the workers |
| JOBSET_NAME and others | `launch.render_kubernetes` | the pods by index |
| CLUSTER_SPEC | Vertex AI | workerpool0, then workerpool1 |
| SM_HOSTS, SM_CURRENT_HOST | Amazon SageMaker | the hosts by name |
| TRAINING_JOB_NAME, and its `RESOURCE_CONFIG` | SageMaker, in any container | the hosts by name |
| SKYPILOT_NODE_IPS, SKYPILOT_NODE_RANK | SkyPilot | the nodes in its order |
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from tf_lars.cluster.spec import Cluster, join_address
from tf_lars.errors import InputError

TF_CONFIG, CLUSTER_SPEC, SAGEMAKER, SKYPILOT = "TF_CONFIG", "CLUSTER_SPEC", "SageMaker", "SkyPilot"
JOBSET = "the Kubernetes JobSet"
"""Sources of a cluster, for messages."""

PORT = 2222
"""Port at which workers meet where the platform names none."""

RESOURCE_CONFIG = "/opt/ml/input/config/resourceconfig.json"
"""File with the hosts of a SageMaker job, from which its training toolkit makes variables."""

_EXAMPLE = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
_CHIEFS = ("chief", "master")
_EVALUATOR = "evaluator"
_POOLS = ("workerpool0", "workerpool1")

WorkersAndRank = tuple[tuple[str, ...], int]


def find(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster of several nodes that a platform other than TF_CONFIG's describes.

    Args:
      environment: Environment variables of the process.

    Raises:
      InputError: Its variables are malformed.
    """
    environment = _with_sagemaker_hosts(environment)
    if environment.get(CLUSTER_SPEC, "").strip():
        return Cluster(*from_cluster_spec(environment[CLUSTER_SPEC]), CLUSTER_SPEC)
    for variable, read, source in (
        ("SM_HOSTS", from_sagemaker, SAGEMAKER),
        ("SKYPILOT_NODE_IPS", from_skypilot, SKYPILOT),
    ):
        if environment.get(variable, "").strip():
            workers, rank = read(environment)
            if len(workers) > 1:
                return Cluster(workers, rank, source)
    return None


def started(environment: Mapping[str, str]) -> tuple[int, str]:
    """Returns how many nodes the platform has started, this one included, 1 if none says so.

    Returns:
      Their number, and the variable that says so.

    Raises:
      InputError: The variables are malformed.
    """
    if environment.get(TF_CONFIG, "").strip():
        (workers, _), _ = from_tf_config(environment[TF_CONFIG])
        return len(workers), TF_CONFIG
    found = find(environment)
    if found:
        names = {CLUSTER_SPEC: CLUSTER_SPEC, SAGEMAKER: "SM_HOSTS", SKYPILOT: "SKYPILOT_NODE_IPS"}
        return found.num_workers, names[found.source]
    return 1, ""


def from_tf_config(text: str) -> tuple[WorkersAndRank, str]:
    """Returns the workers, the rank of this process among them, and the source of TF_CONFIG.

    A chief is rank 0, and the workers follow. Evaluators of the cluster are left out, since
    evaluation is a part of training here.

    Args:
      text: Value of the variable.

    Raises:
      InputError: It is malformed, or describes a job of another kind.
    """
    config = _object(text, TF_CONFIG, _EXAMPLE)
    if "sparseCluster" in config and "cluster" not in config:
        _refuse(TF_CONFIG, "name all workers", "a sparseCluster", "Turn dynamic workers off.")
    hosts, task = config.get("cluster"), config.get("task")
    if not isinstance(hosts, dict) or not hosts:
        _refuse(TF_CONFIG, f"be like {_EXAMPLE}", _told(hosts, "cluster"), _UNSET)
    if not isinstance(task, dict):
        _refuse(TF_CONFIG, f"be like {_EXAMPLE}", _told(task, "task"), _UNSET)
    kind, index = task.get("type"), _index(task.get("index"), TF_CONFIG)
    if kind == _EVALUATOR:
        _refuse(
            TF_CONFIG,
            "make this process a worker",
            "a task of the type evaluator",
            "Training evaluates by itself; leave out the evaluator, or run `python -m "
            "launch.evaluate` there.",
        )
    others = sorted(set(hosts) - {"worker", _EVALUATOR, *_CHIEFS})
    if others or kind not in ("worker", *_CHIEFS):
        _refuse(
            TF_CONFIG,
            "have tasks of the types chief and worker, for synchronous training",
            f"a task of the type {kind!r} in a cluster of {', '.join(sorted(hosts))}",
            "Give all of them these types.",
        )
    chiefs = [address for name in _CHIEFS for address in _addresses(hosts, name, TF_CONFIG)]
    workers = _addresses(hosts, "worker", TF_CONFIG)
    if len(chiefs) > 1:
        _refuse(TF_CONFIG, "have one chief", f"{len(chiefs)}", "Make the others workers.")
    group = chiefs if kind in _CHIEFS else workers
    if not 0 <= index < len(group):
        _refuse(
            TF_CONFIG,
            f"give this task an index from 0 to {len(group) - 1} among those of its type"
            if group
            else "list the tasks of this one's type in its cluster",
            f"a task of the type {kind!r} with index {index}, of {len(group)}",
            "Correct it.",
        )
    rank = index if kind in _CHIEFS else len(chiefs) + index
    return ((*chiefs, *workers), rank), str(config.get("source", TF_CONFIG))


def from_cluster_spec(text: str) -> WorkersAndRank:
    """Returns the workers and the rank of this process of Vertex AI's CLUSTER_SPEC.

    Args:
      text: Value of the variable.

    Raises:
      InputError: It is malformed, or has pools for parameter servers or evaluators.
    """
    example = '{"cluster": {"workerpool0": ["host:port"]}, "task": {"type": "workerpool0", ...}}'
    config = _object(text, CLUSTER_SPEC, example)
    hosts, task = config.get("cluster"), config.get("task")
    if not isinstance(hosts, dict) or not isinstance(task, dict):
        _refuse(CLUSTER_SPEC, f"be like {example}", text[:200], "Correct it, or unset it.")
    others = sorted(name for name in set(hosts) - set(_POOLS) if hosts[name])
    kind = task.get("type")
    if others or kind not in _POOLS:
        _refuse(
            CLUSTER_SPEC,
            "have the pools workerpool0 and workerpool1, for synchronous training",
            f"a task of {kind!r} in a cluster of {', '.join(sorted(hosts))}",
            "Leave out the pools of parameter servers and evaluators.",
        )
    pools = [_addresses(hosts, name, CLUSTER_SPEC) for name in _POOLS]
    rank = _index(task.get("index"), CLUSTER_SPEC) + (len(pools[0]) if kind == _POOLS[1] else 0)
    return (*pools[0], *pools[1]), rank


def from_sagemaker(environment: Mapping[str, str]) -> WorkersAndRank:
    """Returns the workers and the rank of this process of a SageMaker job.

    Args:
      environment: Environment variables of the process.

    Raises:
      InputError: They are malformed, or this host is not among the others.
    """
    text, own = environment["SM_HOSTS"], environment.get("SM_CURRENT_HOST", "")
    try:
        hosts = json.loads(text)
    except ValueError:
        hosts = None
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        _refuse("SM_HOSTS", 'be like ["algo-1", "algo-2"]', text[:200], "Correct it, or unset it.")
    if own not in hosts:
        _refuse(
            "SM_CURRENT_HOST",
            "be one of SM_HOSTS",
            f"{own!r} and {', '.join(hosts)}",
            "Correct it, or unset both.",
        )
    hosts = sorted(hosts)  # on each host in the same order
    return tuple(f"{host}:{PORT}" for host in hosts), hosts.index(own)


def from_jobset(environment: Mapping[str, str]) -> WorkersAndRank:
    """Returns the workers and the rank of this pod of a JobSet of `launch.render_kubernetes`.

    The DNS names are JobSet's.

    Args:
      environment: Environment variables of the process.

    Raises:
      InputError: One is missing or malformed.
    """
    try:
        jobset = environment["JOBSET_NAME"]
        prefix = "-".join(
            [jobset, environment["JOBSET_REPLICATED_JOB"], environment["JOBSET_JOB_INDEX"]]
        )
        pods = int(environment["JOBSET_NUM_PODS"])
        rank = int(environment["JOB_COMPLETION_INDEX"])
        port = int(environment.get("JOBSET_PORT", PORT))
    except (KeyError, ValueError) as error:
        raise InputError(
            "A pod of a JobSet needs JOBSET_NAME, JOBSET_REPLICATED_JOB, JOBSET_JOB_INDEX, "
            f"JOBSET_NUM_PODS and JOB_COMPLETION_INDEX. Received: {error!r}. Render the manifest "
            "with python -m launch.render_kubernetes."
        ) from error
    return tuple(f"{prefix}-{i}.{jobset}:{port}" for i in range(pods)), rank


def _with_sagemaker_hosts(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Adds the variables of SageMaker's training toolkit, which a container need not have."""
    if not environment.get("TRAINING_JOB_NAME") or environment.get("SM_HOSTS"):
        return environment
    with contextlib.suppress(FileNotFoundError):
        with open(RESOURCE_CONFIG, encoding="utf-8") as file:
            found = _object(file.read(), RESOURCE_CONFIG, '{"current_host": ..., "hosts": ...}')
        hosts, own = json.dumps(found.get("hosts")), str(found.get("current_host"))
        return {**environment, "SM_HOSTS": hosts, "SM_CURRENT_HOST": own}
    return environment


def from_skypilot(environment: Mapping[str, str]) -> WorkersAndRank:
    """Returns the workers and the rank of this node of a SkyPilot task.

    Args:
      environment: Environment variables of the process.

    Raises:
      InputError: They are malformed.
    """
    ips = environment["SKYPILOT_NODE_IPS"].split()
    rank = _index(environment.get("SKYPILOT_NODE_RANK"), "SKYPILOT_NODE_RANK")
    if not 0 <= rank < len(ips):
        _refuse(
            "SKYPILOT_NODE_RANK",
            "be an index into SKYPILOT_NODE_IPS",
            f"{rank} of {len(ips)}",
            "Correct it, or unset both.",
        )
    return tuple(join_address(ip, PORT) for ip in ips), rank


_UNSET = "Correct it, or unset it to train in this process alone."


def _object(text: str, source: str, example: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(source, f"be JSON like {example}", f"{text[:200]} ({error!r})", _UNSET)
    if not isinstance(config, dict):
        _refuse(source, f"be JSON like {example}", text[:200], _UNSET)
    return config


def _addresses(hosts: Mapping[str, Any], name: str, source: str) -> tuple[str, ...]:
    """Returns the addresses of the tasks of a type, none if there are none."""
    listed = hosts.get(name, [])
    if isinstance(listed, dict):
        _refuse(source, f"list all tasks of the type {name}", "a dictionary", "Write a list.")
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        received = f"{listed!r}"[:200]
        _refuse(source, f"have a list of addresses for {name}", received, "Write a list of texts.")
    return tuple(listed)


def _index(index: Any, source: str) -> int:
    try:
        return int(index)
    except (TypeError, ValueError):
        _refuse(source, "give this task an index", f"{index!r}", _UNSET)


def _told(value: Any, name: str) -> str:
    return f"none with a {name}" if value is None else f"{name} {value!r}"[:200]


def _refuse(source: str, rule: str, received: str, remedy: str) -> NoReturn:
    raise InputError(f"{source} must {rule}. Received: {received}. {remedy}")

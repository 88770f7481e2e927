"""Manifests as dictionaries, and their validation against published models, without a cluster."""

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from launch.kubernetes import jobset as kubernetes
from launch.kubernetes.tpus import tpu_slice

KUBERNETES = ("1.31", "1.37")
"""First release with stable pod failure policies, and newest release with a published model."""

IMAGE = "example/tf-lars:1"


class Refused(Exception):
    """A manifest does not follow a published model."""


def job(**more):
    """Returns a training job named "lars"."""
    given = {"name": "lars", "image": IMAGE, "arguments": ("--epochs=50",)}
    return kubernetes.TrainingJob(**{**given, **more})


def gpus(nodes=8, **more):
    """Returns a JobSet on nodes of 8 GPUs."""
    return kubernetes.gpu_jobset(job(**more), nodes=nodes, gpus_per_node=8, startup_timeout=60)


def tpus(accelerator, topology, **more):
    """Returns a JobSet on a TPU slice."""
    return kubernetes.tpu_jobset(job(**more), tpu_slice(accelerator, topology))


def replicated_jobs(manifest):
    """Returns the replicated Jobs of a JobSet by name."""
    return {one["name"]: one for one in manifest["spec"]["replicatedJobs"]}


def pod(manifest, name="worker"):
    """Returns the pod specification of a replicated Job."""
    return replicated_jobs(manifest)[name]["template"]["spec"]["template"]["spec"]


def container(manifest, name="worker"):
    """Returns the only container in the pods of a replicated Job."""
    (only,) = pod(manifest, name)["containers"]
    return only


def jobset(text):
    """Parses the JobSet in YAML, and validates it and the NetworkPolicy before it."""
    policy, manifest = yaml.safe_load_all(text)
    for version in KUBERNETES:
        validate(manifest, version)
        _validate_object(policy, version)
    return manifest


def network_policy(text):
    """Returns the NetworkPolicy before a JobSet in YAML."""
    policy, _ = yaml.safe_load_all(text)
    assert policy["kind"] == "NetworkPolicy"
    return policy


def validate(manifest, version=KUBERNETES[-1]):
    """Validates a JobSet by JobSet's model, and its Jobs and pods by that of Kubernetes.

    Raises:
      Refused: The manifest does not follow one of them.
    """
    try:
        understood = JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    except (ValueError, AttributeError) as error:
        raise Refused(str(error)) from error
    if understood != manifest:  # the model ignores unknown fields
        raise Refused("a field that JobSet does not have")
    for replicated in manifest["spec"]["replicatedJobs"]:
        spec = replicated["template"]["spec"]
        one = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}
        _validate_object(one, version)


def _validate_object(one, version):
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refused(error.message) from error

"""What the published models of Kubernetes and JobSet say of a manifest, without a cluster."""

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

KUBERNETES = ("1.31", "1.37")
"""The release in which pod failure policies became stable, and the newest that is published."""


class Refused(Exception):
    """A manifest does not follow a published model."""


def jobset(text):
    """Reads a JobSet from YAML and validates it."""
    manifest = yaml.safe_load(text)
    for version in KUBERNETES:
        validate(manifest, version)
    return manifest


def validate(manifest, version=KUBERNETES[-1]):
    """Raises `Refused` where JobSet's model, or Kubernetes' of a Job and its pods, is not met."""
    try:
        understood = JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    except (ValueError, AttributeError) as error:
        raise Refused(str(error)) from error
    if understood != manifest:  # the model passes over fields that it does not know
        raise Refused("a field that JobSet does not have")
    for replicated in manifest["spec"]["replicatedJobs"]:
        spec = replicated["template"]["spec"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec}
        try:
            kubernetes_validate.validate(job, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(error.message) from error

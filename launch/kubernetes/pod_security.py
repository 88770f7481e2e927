"""What pods may do, and who may reach them.

The pods fulfil Kubernetes' Pod Security Standard "restricted", unless a volume is a hostPath or
they run as root.

References: Kubernetes documentation, "Pod Security Standards" and "Network Policies".
"""

import dataclasses
import re
from typing import Any

from tf_lars.errors import InputError

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Label of all pods of a JobSet; its value is the name of the JobSet."""
LARGEST_ID = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class PodUser:
    """User and group of the processes in pods.

    Attributes:
      uid: User; the image's is 1000, and any other can use the image.
      gid: Group, also of the files in volumes that Kubernetes can assign to a group.
    """

    uid: int = 1000
    gid: int = 1000

    @classmethod
    def parse(cls, text: str) -> "PodUser":
        """Parses UID or UID:GID; without the latter, the group has the number of the user.

        Raises:
          InputError: The text does not have this form.
        """
        match = re.fullmatch(r"(\d{1,10})(?::(\d{1,10}))?", text, flags=re.ASCII)
        ids = [int(one) for one in match.groups(match[1])] if match else []
        if not ids or max(ids) > LARGEST_ID:
            raise InputError(
                f"--user must be UID or UID:GID, in numbers up to {LARGEST_ID}. Received: {text!r}."
            )
        return cls(*ids)


def pod_security_context(user: PodUser) -> dict[str, Any]:
    """Returns a pod's `securityContext`."""
    return {
        "runAsNonRoot": user.uid != 0,
        "runAsUser": user.uid,
        "runAsGroup": user.gid,
        # Claims become writable for the group, without a walk through a volume that is so already.
        "fsGroup": user.gid,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context() -> dict[str, Any]:
    """Returns a container's `securityContext`."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def network_policy(name: str, namespace: str | None) -> dict[str, Any]:
    """Returns the NetworkPolicy of a JobSet: its pods accept connections from each other alone.

    All ports are open between them, since TensorFlow, NCCL and the rendezvous choose theirs. What
    the pods connect to is not restricted: the addresses of name servers, storage and metadata
    servers differ from cluster to cluster.

    Args:
      name: Name of the JobSet.
      namespace: Its namespace, if it is not that of kubectl's context.
    """

    def pods() -> dict[str, Any]:
        return {"matchLabels": {JOBSET_LABEL: name}}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "spec": {
            "podSelector": pods(),
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": pods()}]}],
        },
    }

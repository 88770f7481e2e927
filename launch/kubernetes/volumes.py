"""Volumes of pods, each described by one line such as /data=pvc:imagenet:ro."""

import dataclasses
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from launch.kubernetes.pod_security import PodUser
from tf_lars.errors import InputError

GCS_ANNOTATIONS = {"gke-gcsfuse/volumes": "true"}
"""Makes GKE's Cloud Storage FUSE driver add its sidecar to a pod with a bucket."""

_RULE = (
    "--volume must be PATH=pvc:CLAIM, PATH=hostPath:FOLDER or PATH=gcs:BUCKET, followed by :ro if "
    "read-only."
)


@dataclasses.dataclass(frozen=True)
class MountedVolume:
    """A volume and its mount point in containers.

    Attributes:
      path: Mount point.
      kind: pvc, hostPath or gcs.
      source: Name of the claim or bucket, or folder of the node.
      read_only: Whether containers cannot write to it.
    """

    path: str
    kind: str
    source: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> "MountedVolume":
        """Parses PATH=KIND:SOURCE[:ro].

        Raises:
          InputError: The text does not have this form.
        """
        match = re.fullmatch(r"(/[^=,:]*)=(pvc|hostPath|gcs):([^:]+?)(:ro)?", text)
        if not match:
            raise InputError(f"{_RULE} Received: {text!r}.")
        path, kind, source, read_only = match.groups()
        form = r"/.*" if kind == "hostPath" else r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
        if not re.fullmatch(form, source) or path == "/":
            raise InputError(f"{_RULE} Received: {text!r}.")
        return cls(posixpath.normpath(path), kind, source, bool(read_only))

    def holds(self, path: str) -> bool:
        """Returns whether a path in the container lies in this volume."""
        return (posixpath.normpath(path) + "/").startswith(self.path + "/")

    def volume(self, name: str, user: PodUser) -> dict[str, Any]:
        """Returns the entry in a pod's `volumes`; a bucket's files belong to the user."""
        read_only = {"readOnly": True} if self.read_only else {}
        if self.kind == "pvc":
            return {"name": name, "persistentVolumeClaim": {"claimName": self.source, **read_only}}
        if self.kind == "hostPath":
            return {"name": name, "hostPath": {"path": self.source, "type": "Directory"}}
        bucket = {
            "driver": "gcsfuse.csi.storage.gke.io",
            **read_only,
            "volumeAttributes": {
                "bucketName": self.source,
                "mountOptions": f"uid={user.uid},gid={user.gid}",
            },
        }
        return {"name": name, "csi": bucket}

    def mount(self, name: str) -> dict[str, Any]:
        """Returns the entry in a container's `volumeMounts`."""
        read_only = {"readOnly": True} if self.read_only else {}
        return {"name": name, "mountPath": self.path, **read_only}


def parse_all(texts: Sequence[str]) -> tuple[MountedVolume, ...]:
    """Parses several volumes.

    Raises:
      InputError: A text has the wrong form, or two volumes have the same mount point.
    """
    volumes = tuple(MountedVolume.parse(text) for text in texts)
    paths = [volume.path for volume in volumes]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise InputError(
            f"Each --volume must have a different path. Received: {twice[0]} more than once."
        )
    return volumes

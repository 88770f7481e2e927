"""Volumes of pods from one line each: /data=pvc:imagenet:ro."""

import dataclasses
import posixpath
import re

from launch.kubernetes import objects
from tf_lars.errors import InputError

GCS_ANNOTATIONS = {"gke-gcsfuse/volumes": "true"}
"""On a pod with a bucket, for GKE's Cloud Storage FUSE driver to add its sidecar."""

_RULE = (
    "--volume must be PATH=pvc:CLAIM, PATH=hostPath:FOLDER or PATH=gcs:BUCKET, with :ro at the "
    "end to only read it."
)


@dataclasses.dataclass(frozen=True)
class MountedVolume:
    """A volume and where containers see it.

    Attributes:
      path: the mount point.
      kind: pvc, hostPath or gcs.
      source: name of the claim or the bucket, or the node's folder.
      read_only: whether it cannot be written to.
    """

    path: str
    kind: str
    source: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> "MountedVolume":
        """Reads PATH=KIND:SOURCE[:ro].

        Raises:
          InputError: it is not of this form.
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
        """Whether a path of the container lies in this volume."""
        return (posixpath.normpath(path) + "/").startswith(self.path + "/")

    def volume(self, name: str) -> objects.Volume:
        """Returns it as a volume of a pod."""
        read_only = self.read_only or None
        if self.kind == "pvc":
            claim = objects.PersistentVolumeClaimVolumeSource(
                claim_name=self.source, read_only=read_only
            )
            return objects.Volume(name=name, persistent_volume_claim=claim)
        if self.kind == "hostPath":
            folder = objects.HostPathVolumeSource(path=self.source, type="Directory")
            return objects.Volume(name=name, host_path=folder)
        bucket = objects.CSIVolumeSource(
            driver="gcsfuse.csi.storage.gke.io",
            read_only=read_only,
            volume_attributes={"bucketName": self.source},
        )
        return objects.Volume(name=name, csi=bucket)

    def mount(self, name: str) -> objects.VolumeMount:
        """Returns the mount in a container."""
        return objects.VolumeMount(
            name=name, mount_path=self.path, read_only=self.read_only or None
        )


def parse_all(texts: list[str]) -> tuple[MountedVolume, ...]:
    """Reads several volumes.

    Raises:
      InputError: one is not of the right form, or two have one mount point.
    """
    volumes = tuple(MountedVolume.parse(text) for text in texts)
    paths = [volume.path for volume in volumes]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise InputError(
            f"Every --volume needs a path of its own. Received: {twice[0]} more than once."
        )
    return volumes

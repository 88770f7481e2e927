"""The GPUs of this machine, without TensorFlow, which would take them and seconds to do so."""

import os
import subprocess
from collections.abc import Mapping

_QUERY = ("nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader")
_SECONDS = 20


def names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves to this process.

    None where nvidia-smi is not there or fails. A MIG slice has the name "MIG".

    Args:
      environment: holds CUDA_VISIBLE_DEVICES and PATH.
    """
    try:
        done = subprocess.run(
            _QUERY, capture_output=True, text=True, timeout=_SECONDS, env=dict(environment)
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    found = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [name.strip() for name, _ in found]
    chosen = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.startswith("MIG"):
            chosen.append("MIG")
            continue
        match = [
            name.strip()
            for number, (name, uuid) in enumerate(found)
            if entry == str(number) or (entry and uuid.strip().startswith(entry))
        ]
        if not match:
            break  # CUDA, too, takes those before the first that does not exist
        chosen.append(match[0])
    return chosen


def identifiers(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns what CUDA_VISIBLE_DEVICES calls the GPUs of `names`, in the same order."""
    count = len(names(environment))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(count)]
    return [part.strip() for part in visible.split(",")][:count]

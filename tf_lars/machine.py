"""GPUs, cores and memory of this machine, found without TensorFlow.

TensorFlow would occupy the GPUs and take seconds to import.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TypeVar

from tf_lars.errors import InputError

T = TypeVar("T")

_QUERY = ("nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader")
_SECONDS = 20


def gpu_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES makes visible.

    The list is empty if nvidia-smi is missing or fails. A MIG slice has the name "MIG".

    Args:
      environment: Environment variables with CUDA_VISIBLE_DEVICES and PATH.
    """
    try:
        done = subprocess.run(
            _QUERY,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            env=dict(environment),
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
            break  # like CUDA, which uses the devices before the first that does not exist
        chosen.append(match[0])
    return chosen


def gpu_identifiers(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the identifiers of the GPUs of `gpu_names` in CUDA_VISIBLE_DEVICES, in order."""
    count = len(gpu_names(environment))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(count)]
    return [part.strip() for part in visible.split(",")][:count]


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Returns the memory that is available without swapping, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":") for line in file)
    return 1024 * int(lines["MemAvailable"].split()[0])


def cpu_name() -> str:
    """Returns the name of the CPU, such as "AMD EPYC 7R13"; "CPU" where it is unknown."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].split(":", 1)[1].strip() if lines else "CPU"


def share_of_process(devices: Sequence[T], index: int, count: int) -> list[T]:
    """Returns the devices of one of several processes of a machine, the same number for each.

    Fewer devices than processes are all returned: each process then sees its own only.

    Args:
      devices: Devices that the process sees.
      index: Index of the process, from 0.
      count: Number of processes.

    Raises:
      InputError: The devices do not divide among the processes.
    """
    if len(devices) < count:
        return list(devices)
    if len(devices) % count:
        raise InputError(
            "The GPUs of a machine must divide evenly among its workers. Received: "
            f"{len(devices)} GPUs and {count} workers. Start {len(devices)} workers, or set "
            "CUDA_VISIBLE_DEVICES."
        )
    share = len(devices) // count
    return list(devices[index * share : (index + 1) * share])

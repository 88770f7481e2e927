"""The devices for which a step can be compiled without having them, by name.

A GPU is described by what XLA's compiler asks of it, from gpus.csv: `h100_sxm:8` is eight of them
in one host, `h100_sxm:64` eight hosts with eight each. A TPU is a topology that libtpu knows,
from tpus.csv: `v5e:2x2` is four chips. Compute at the roofline is by the planner's data sheets.
"""

import dataclasses
import difflib
import functools
import math
import re

from tf_lars.errors import InputError
from tf_lars.packaged_csv import rows
from tf_lars.planner import devices
from tf_lars.planner.compiled_steps import GIB

GPUS_PER_HOST = 8


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one kind, joined.

    Attributes:
      name: Name with the size, such as "h100_sxm:8" or "v5e:2x2".
      platform: "cuda" or "tpu".
      kind: Name without the size.
      topology: Topology by the compiler's name.
      num_devices: Number of devices, of which each holds a replica.
      memory_bytes: Memory of a device. For TPUs, what libtpu leaves to a program.
      memory_bandwidth: Of a device, in bytes/s.
      peak_flops: Peak of a device in 16-bit arithmetic, in FLOP/s.
      accelerator: The planner's name of the family.
      source: Where the description is from.
    """

    name: str
    platform: str
    kind: str
    topology: str
    num_devices: int
    memory_bytes: int
    memory_bandwidth: float
    peak_flops: float
    accelerator: str
    source: str

    @property
    def description(self) -> str:
        """The description of a GPU for XLA, a `GpuTargetConfigProto` as text."""
        row = _gpus()[self.kind]
        major, _, minor = row["compute_capability"].partition(".")
        numbers = "\n".join(
            f"  {name}: {row[column]}"
            for name, column in (
                ("core_count", "cores"),
                ("fpus_per_core", "fpus_per_core"),
                ("shared_memory_per_core", "shared_memory_per_core"),
                ("shared_memory_per_block_optin", "shared_memory_per_block_optin"),
                ("l2_cache_size", "l2_cache_size"),
                ("clock_rate_ghz", "clock_rate_ghz"),
                ("device_memory_size", "device_memory_size"),
                ("memory_bandwidth", "memory_bandwidth"),
            )
        )
        return _DESCRIPTION.format(
            major=major, minor=minor, name=row["description"], numbers=numbers
        )


_DESCRIPTION = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  cuda_compute_capability {{ major: {major} minor: {minor} }}
{numbers}
  name: "{name}"
  runtime_version: "12.8.0"
  driver_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""
"""What all GPUs here share, from the same files as gpus.csv. The versions are those of the
libraries that the program is compiled for."""


def target(text: str) -> Target:
    """Returns a target by its name and size; without a size, one host of GPUs or one small slice.

    Raises:
      InputError: The target is unknown, or cannot have this size.
    """
    kind, _, size = text.strip().lower().partition(":")
    if kind in _gpus():
        return _gpu(kind, size or str(GPUS_PER_HOST))
    if kind in _tpus():
        return _tpu(kind, size or _tpus()[kind]["topology"])
    known = [*_gpus(), *_tpus()]
    # h100 is of the family of h100_sxm, although h200 differs in fewer letters.
    family = [n for n in known if kind and (n.startswith(kind) or kind.startswith(n))]
    close = family or difflib.get_close_matches(kind, known, n=1)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise InputError(
        f"A target must be one of {', '.join(known)}, with :N for the number of "
        f"GPUs or :AxB for the chips of TPUs. Received: {text!r}.{hint}"
    )


def table() -> list[dict[str, str]]:
    """Returns the known targets, a row each, as text."""
    found = []
    for kind in [*_gpus(), *_tpus()]:
        one = target(kind)
        found.append(
            {
                "target": one.name,
                "devices": str(one.num_devices),
                "memory": f"{one.memory_bytes / GIB:.2f} GiB",
                "bandwidth": f"{one.memory_bandwidth / 1e9:,.0f} GB/s",
                "peak": f"{one.peak_flops / 1e12:,.0f} TFLOP/s",
                "source": one.source,
            }
        )
    return found


def _gpu(kind: str, size: str) -> Target:
    count = int(size) if size.isdecimal() else 0
    whole_hosts = count % GPUS_PER_HOST == 0
    if count < 1 or (count > GPUS_PER_HOST and not whole_hosts):
        raise InputError(
            f"The number of GPUs must be from 1 to {GPUS_PER_HOST}, or a multiple of it. Received: "
            f"{kind}:{size}. Write {kind}:{GPUS_PER_HOST}, for example."
        )
    hosts = max(1, count // GPUS_PER_HOST)
    row = _gpus()[kind]
    peak = devices.peak_flops(row["accelerator"])
    assert peak is not None, row
    return Target(
        name=f"{kind}:{count}",
        platform="cuda",
        kind=kind,
        topology=f"1x{hosts}x{count // hosts}",
        num_devices=count,
        memory_bytes=int(row["device_memory_size"]),
        memory_bandwidth=float(row["memory_bandwidth"]),
        peak_flops=peak,
        accelerator=row["accelerator"],
        source=row["source"],
    )


def _tpu(kind: str, size: str) -> Target:
    if not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", size):
        raise InputError(
            "The size of a TPU must be its topology in chips, such as 2x2 or 2x2x1. Received: "
            f"{kind}:{size}. Write {kind}:{_tpus()[kind]['topology']}, for example."
        )
    row = _tpus()[kind]
    per_chip = int(row["devices_per_chip"])
    peak = devices.peak_flops(row["accelerator"])
    assert peak is not None, row
    return Target(
        name=f"{kind}:{size}",
        platform="tpu",
        kind=kind,
        topology=f"{kind}:{size}",
        num_devices=math.prod(map(int, size.split("x"))) * per_chip,
        memory_bytes=round(float(row["hbm_gib"]) * GIB),
        memory_bandwidth=devices.memory_bandwidth(row["accelerator"]) / per_chip,
        peak_flops=peak / per_chip,
        accelerator=row["accelerator"],
        source=row["source"],
    )


@functools.cache
def _gpus() -> dict[str, dict[str, str]]:
    return {row["target"]: row for row in rows(__package__, "gpus.csv")}


@functools.cache
def _tpus() -> dict[str, dict[str, str]]:
    return {row["target"]: row for row in rows(__package__, "tpus.csv")}

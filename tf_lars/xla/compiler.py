"""Compiles an exported step for devices that are not there, or runs it on those that are.

Every use of private API of JAX is here. Checked with jax and jaxlib 0.10.2, libtpu 0.0.51 and
jax-cuda12-plugin 0.10.2, the versions that `make setup-compile` installs; `PRIVATE` lists what is
relied on, and `check_private_api` says what has moved. Neither TensorFlow nor Keras is imported.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_lars.errors import InputError
from tf_lars.planner.compiled_steps import CompiledStep
from tf_lars.xla.exported_step import ExportedStep, Tensor
from tf_lars.xla.targets import Target

PRIVATE = {
    "jaxlib._hlo": ("HloModule", "XlaComputation"),
    "jaxlib._jax": ("hlo_module_cost_analysis", "mlir"),
    "jaxlib._jax.mlir": ("xla_computation_to_mlir_module",),
    "jax._src.interpreters.mlir": ("make_ir_context",),
    "jaxlib.xla_client": ("CompileOptions", "DeviceAssignment", "DeviceList"),
    "jax.experimental.topologies": ("get_topology_desc",),
}
"""Private names of JAX, by module."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = (
    # The arguments and temporaries together, and temporaries that are too large by themselves.
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)
_ALL_REDUCE = re.compile(r"= (\(?[^=]*?\)?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")


def compile_for(step: ExportedStep, target: Target) -> CompiledStep:
    """Compiles a step for a target, whose devices need not be there.

    Args:
      step: The step, for as many replicas as the target has devices.
      target: The devices.

    Raises:
      InputError: The step is for another number of replicas, the compiler of that platform is not
        installed, or it has refused the program for another reason than memory.
    """
    if step.num_replicas != target.num_devices:
        raise InputError(
            f"The step must be exported for the {target.num_devices} devices of {target.name}. "
            f"Received: one of {step.num_replicas} replicas. Export it for this target."
        )
    prepare_environment()
    check_private_api()
    devices = _devices(target)
    start = time.perf_counter()
    try:
        executable = _compiled(step.hlo, devices, target.num_devices)
    except RuntimeError as error:
        peak = _needed(str(error))
        if peak is None and "RESOURCE_EXHAUSTED" not in str(error):
            raise InputError(
                f"The step must be one that {target.name} can run. Received: "
                f"{' '.join(str(error).split())[:400]}. Change the model, or report the error."
            ) from error
        return _outcome(step, target, time.perf_counter() - start, peak)
    seconds = time.perf_counter() - start
    parts = memory_parts(executable, code_on_device=target.platform == "tpu")
    [module] = executable.hlo_modules()
    all_reduced = all_reduces(module.to_string())
    return _outcome(
        step,
        target,
        seconds,
        peak_bytes(parts),
        **parts,
        updated_in_place=_is_in_place(step, parts),
        bytes_accessed=_bytes_accessed(step, executable, module),
        all_reduces=len(all_reduced),
        all_reduce_bytes=sum(all_reduced),
    )


def memory_parts(executable: Any, *, code_on_device: bool = False) -> dict[str, int]:
    """Returns the parts of the memory that a compiled program needs, by `CompiledStep`'s names."""
    memory = executable.get_compiled_memory_stats()
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes if code_on_device else 0,
    }


def peak_bytes(parts: Mapping[str, int]) -> int:
    """Returns the memory that a program needs, in which aliases are arguments and outputs."""
    return sum(parts.values()) - 2 * parts["alias_bytes"]


def all_reduces(hlo: str) -> list[int]:
    """Returns the bytes of each all-reduce in a module's text."""
    return [
        sum(_shape_bytes(*shape) for shape in _SHAPE.findall(result))
        for result in _ALL_REDUCE.findall(hlo)
    ]


def runner(step: ExportedStep) -> tuple[Callable[[Sequence[Any]], list[Any]], Any]:
    """Returns a function that takes a step on the first device that JAX finds here.

    Args:
      step: A step of one replica.

    Returns:
      A function from the inputs of the program, arrays on the device, to its outputs; and the
      compiled program. The variables that a step changes are updated in place: their arrays cannot
      be used again.

    Raises:
      InputError: The step is for several replicas.
    """
    if step.num_replicas != 1:
        raise InputError(
            "A step is run on one device. Received: one that is exported for "
            f"{step.num_replicas} replicas. Export it for one."
        )
    check_private_api()
    import jax
    from jaxlib import xla_client

    jax.config.update("jax_enable_x64", True)  # the counter of steps has 64 bits
    device = jax.devices()[0]
    loaded = device.client.compile_and_load(
        _module(step.hlo), xla_client.DeviceList((device,)), _options(1)
    )

    def run(inputs: Sequence[Any]) -> list[Any]:
        outputs = loaded.execute_sharded(list(inputs))
        return [one[0] for one in outputs.disassemble_into_single_device_arrays()]

    return run, loaded


def costs(step: ExportedStep, executable: Any) -> tuple[float, float]:
    """Returns the operations of a step, and the bytes that it reads and writes after fusion."""
    [module] = executable.hlo_modules()
    moved = _bytes_accessed(step, executable, module)
    return _flops(step) or 0.0, moved or 0.0


def versions() -> str:
    """Returns the versions of JAX and of the compilers that are installed."""
    found = []
    for name in ("jax", "jaxlib", "jax-cuda12-plugin", "libtpu"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def check_private_api() -> None:
    """Checks that the private names of JAX are where they were.

    Raises:
      InputError: JAX is missing, or a name has moved; the message names it.
    """
    for path, names in PRIVATE.items():
        try:
            module = _found(path)
        except ImportError as error:
            raise InputError(
                f"Compiling needs JAX with {path}. Received: an environment without ({error}). "
                "Run `make setup-compile`."
            ) from error
        moved = [name for name in names if not hasattr(module, name)]
        if moved:
            raise InputError(
                f"Compiling needs {path}.{moved[0]} of JAX. Received: {versions()}, where it has "
                "moved. Run `make setup-compile`, which installs the version that has it."
            )


def prepare_environment() -> None:
    """Sets what keeps JAX and libtpu from looking for devices; to be called before JAX is used."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is shared by compilations
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _found(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ImportError:
        parent, _, name = path.rpartition(".")
        if not parent or not hasattr(module := importlib.import_module(parent), name):
            raise
        return getattr(module, name)


def _devices(target: Target) -> Sequence[Any]:
    from jax.experimental import topologies

    if target.platform == "cuda":
        options = {"target_config": target.description, "topology": target.topology}
    else:
        options = {"topology_name": target.topology}
    try:
        return topologies.get_topology_desc(platform=target.platform, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"The compiler of {target.name} must be installed and know this topology. Received: "
            f"{' '.join(str(error).split())[:300]}. Run `make setup-compile`, or choose another "
            "size."
        ) from error


def _compiled(hlo: bytes, devices: Sequence[Any], replicas: int) -> Any:
    from jaxlib import xla_client

    return devices[0].client.compile(
        _module(hlo), xla_client.DeviceList(tuple(devices)), _options(replicas)
    )


def _options(replicas: int) -> Any:
    from jaxlib import xla_client

    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.arange(replicas).reshape(-1, 1)
    )
    if toolkit := _toolkit():
        # Otherwise the machine's ptxas is taken, whose release may not know the GPU, or none.
        options.executable_build_options.debug_options.xla_gpu_cuda_data_dir = toolkit
    return options


def _toolkit() -> str:
    """Returns the folder of CUDA's compilers that are installed beside JAX, or ""."""
    try:
        found = importlib.util.find_spec("nvidia.cuda_nvcc")
    except ModuleNotFoundError:
        return ""
    folders = found.submodule_search_locations if found else None
    return folders[0] if folders else ""


def _module(hlo: bytes) -> Any:
    """Returns the program as a module of MLIR, which JAX's compilers take."""
    from jax._src.interpreters import mlir
    from jaxlib import _hlo, _jax
    from jaxlib.mlir import ir

    text = _jax.mlir.xla_computation_to_mlir_module(_hlo.XlaComputation(hlo))
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context:
        module = ir.Module.parse(text)
        copies: list[Any] = []

        def collect(operation):
            if operation.name == "mhlo.copy":
                copies.append(operation.operation)
            return ir.WalkResult.ADVANCE

        module.operation.walk(collect)
        # TensorFlow copies what it returns; the compilers know no such operation.
        for copy in copies:
            copy.results[0].replace_all_uses_with(copy.operands[0])
            copy.erase()
    return module


def _outcome(
    step: ExportedStep, target: Target, seconds: float, peak: int | None, **known: Any
) -> CompiledStep:
    about = step.about
    unknown = dict.fromkeys(
        (
            "argument_bytes",
            "output_bytes",
            "alias_bytes",
            "temporary_bytes",
            "code_bytes",
            "updated_in_place",
            "bytes_accessed",
            "all_reduces",
            "all_reduce_bytes",
        )
    )
    return CompiledStep(
        target=target.name,
        accelerator=target.accelerator,
        devices=target.num_devices,
        model=about["model"],
        image_size=about["image_size"],
        optimizer=about["optimizer"],
        precision=about["mixed_precision"],
        per_replica_batch_size=about["per_replica_batch_size"],
        micro_batch_size=about["micro_batch_size"],
        # Without arguments, the compiler has ended because memory does not suffice.
        fits=bool(known) and peak is not None and peak <= target.memory_bytes,
        peak_bytes=peak,
        device_bytes=target.memory_bytes,
        flops=_flops(step),
        gradient_bytes=step.gradient_bytes,
        parameters=about["parameters"],
        forward_flops=about["forward_flops"],
        export_seconds=round(about["export_seconds"], 1),
        compile_seconds=round(seconds, 1),
        versions=f"{about['versions']}, {versions()}",
        **(unknown | known),
    )


def _needed(message: str) -> int | None:
    """Returns the bytes that a program needs, by the message of a compiler that has refused it."""
    for pattern in _TOO_LARGE:
        if match := pattern.search(message):
            return round(float(match[1]) * _UNITS[match[2]])
    return None


def _is_in_place(step: ExportedStep, parts: Mapping[str, int]) -> bool:
    """Returns whether all outputs but the small results are in the place of arguments."""
    results = sum(_padded(tensor) for tensor in step.results)
    return parts["output_bytes"] - parts["alias_bytes"] <= results + 4096


def _padded(tensor: Tensor) -> int:
    # TPUs store arrays in tiles of 8 x 128 values of 32 bits.
    return max(4096, 2 * tensor.bytes)


def _flops(step: ExportedStep) -> float | None:
    """Returns the operations of a step, counted before optimisation."""
    from jaxlib import _hlo

    proto = step.whole_hlo or step.hlo
    return _analysis(_hlo.HloModule.from_serialized_hlo_module_proto(proto)).get("flops")


def _bytes_accessed(step: ExportedStep, executable: Any, module: Any) -> float | None:
    """Returns the bytes that a step reads and writes after fusion."""
    if step.whole_hlo is not None:
        return None
    try:
        return dict(executable.cost_analysis())["bytes accessed"]
    except (RuntimeError, NotImplementedError, KeyError, TypeError):
        return _analysis(module).get("bytes accessed")


def _analysis(module: Any) -> Mapping[str, float]:
    import jax
    from jaxlib import _jax

    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)


def _shape_bytes(dtype: str, dimensions: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    count = 1
    for dimension in dimensions.split(",") if dimensions else []:
        count *= int(dimension)
    return count * bits // 8

"""What a compiled step says, in words."""

from collections.abc import Iterator, Sequence

from tf_lars.planner.compiled_steps import GIB, CompiledStep
from tf_lars.planner.workloads import TRAINING_PASSES
from tf_lars.xla.targets import Target

WITHOUT_WORKSPACE = "without the workspace of cuDNN and CUDA's context"


def lines(step: CompiledStep, target: Target) -> Iterator[str]:
    """Yields what was found, a line each."""
    micro = f", {step.micro_batch_size:,} at a time" if step.micro_batch_size else ""
    yield (
        f"{step.target:<12}{step.model}, {step.image_size} px, {step.precision}, {step.optimizer}: "
        f"{step.per_replica_batch_size:,} images per device{micro}"
    )
    yield f"memory      {verdict(step, target)}"
    if step.temporary_bytes is not None:
        placed = "are updated in place" if step.updated_in_place else "are NOT updated in place"
        code = f", code {step.code_bytes / GIB:.3f}" if step.code_bytes else ""
        assert step.argument_bytes is not None
        yield (
            f"            arguments {step.argument_bytes / GIB:.3f} GiB, temporaries "
            f"{step.temporary_bytes / GIB:.3f}{code}; weights, momentum and statistics {placed}"
        )
    if step.flops is not None:
        yield (
            f"computation {step.flops / step.per_replica_batch_size / 1e9:,.4g} GFLOP per image, "
            f"{step.flops / 1e12:,.4g} TFLOP per step; by the model's own count "
            f"{TRAINING_PASSES * step.forward_flops / 1e9:,.4g} per image"
        )
        yield f"            {roofline(step, target)}"
    if step.all_reduces is not None:
        assert step.all_reduce_bytes is not None
        yield (
            f"all-reduces {step.all_reduces} of {step.all_reduce_bytes / 2**20:,.1f} MiB together; "
            f"gradients {step.gradient_bytes / 2**20:,.1f} MiB"
        )
    yield (
        f"compiled    in {step.compile_seconds:,.0f} s after {step.export_seconds:,.0f} s of "
        f"export: {step.versions}"
    )


def verdict(step: CompiledStep, target: Target) -> str:
    """Returns whether the step fits into the memory of a device, in words."""
    there = f"{step.device_bytes / GIB:,.2f} GiB"
    without = f" ({WITHOUT_WORKSPACE})" if target.platform == "cuda" else ""
    if step.peak_bytes is None:
        return f"does not fit: the compiler needs more than the {there} of a device"
    needed = f"{step.peak_bytes / GIB:,.2f} GiB of {there} are needed{without}"
    return f"fits: {needed}" if step.fits else f"does not fit: {needed}"


def roofline(step: CompiledStep, target: Target) -> str:
    """Returns by what the step is bound at best, in words.

    The time at the roofline is the longer of the operations at the peak and the bytes at the
    bandwidth (Williams et al. 2009, "Roofline", Communications of the ACM 52(4)). It is a lower
    bound: no time is claimed.
    """
    assert step.flops is not None
    computing = step.flops / target.peak_flops
    if not step.bytes_accessed:
        return f"at least {1e3 * computing:,.3g} ms per step by its operations; bytes not counted"
    moving = step.bytes_accessed / target.memory_bandwidth
    bound = "memory" if moving > computing else "arithmetic"
    return (
        f"{step.bytes_accessed / 1e9:,.4g} GB read and written, "
        f"{step.arithmetic_intensity:,.3g} FLOP per byte: bound by {bound}, at least "
        f"{1e3 * max(moving, computing):,.3g} ms per step"
    )


def largest_that_fits(steps: Sequence[CompiledStep]) -> str:
    """Returns the largest batch per device of a target that fits, in words."""
    fitting = [step for step in steps if step.fits]
    tried = ", ".join(f"{step.per_replica_batch_size:,}" for step in steps)
    where = steps[0].target
    if not fitting:
        return f"{where}: no batch per device of {tried} fits; try a smaller one"
    best = max(fitting, key=lambda step: (step.per_replica_batch_size, step.images_at_once))
    micro = f", in micro-batches of {best.micro_batch_size:,}" if best.micro_batch_size else ""
    told = f"{where}: the largest that fits is {best.per_replica_batch_size:,} per device{micro}"
    if len(fitting) < len(steps):
        told += (
            f" (tried: {tried}); larger batches need --micro_batch_size={best.images_at_once} or "
            "less"
        )
    return told

"""Whether a batch fits into the memory of a device, by steps that XLA has compiled for it.

The memory grows linearly with the images that a device processes at a time: activations, beside
weights and momentum. Between compiled batches it is interpolated, and beyond them continued with
the steepest of the slopes.
Micro-batches need the memory of their size, and the sum of the gradients besides.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf_lars.errors import InputError
from tf_lars.planner.compiled_steps import GIB, CompiledStep
from tf_lars.planner.workloads import name_at

_SIXTEEN_BITS = ("bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Memory that a model's steps need on a device.

    Attributes:
      steps: Steps of one model and target, without micro-batches, by their batch.
    """

    steps: tuple[CompiledStep, ...]

    @classmethod
    def of(
        cls,
        steps: Sequence[CompiledStep],
        *,
        model: str,
        accelerator: str,
        precision: str = "bfloat16",
        target: str | None = None,
    ) -> "DeviceMemory | None":
        """Returns what steps tell of a model on a device; None if they tell nothing.

        Of several targets with such devices, the one with the most memory is taken.

        Args:
          steps: Compiled steps; later ones take precedence.
          model: The planner's name of the model, such as "resnet50".
          accelerator: The planner's name of the device.
          precision: Type of the activations. Both 16-bit types need the same memory.
          target: Name of a target without its size, to take no other.
        """
        bits = _SIXTEEN_BITS if precision in _SIXTEEN_BITS else (precision,)
        alike = [
            step
            for step in steps
            if name_at(step.model, step.image_size) == model
            and step.accelerator == accelerator
            and step.precision in bits
            and step.micro_batch_size is None
            and step.peak_bytes is not None
            and target in (None, step.target.partition(":")[0])
        ]
        if not alike:
            return None
        most = max(step.device_bytes for step in alike)
        alike = [step for step in alike if step.device_bytes == most]
        # A compiler that sees that memory does not suffice computes values twice to save some.
        fitting = [step for step in alike if step.fits]
        by_batch = {s.per_replica_batch_size: s for s in (fitting if len(fitting) > 1 else alike)}
        return cls(tuple(by_batch[batch] for batch in sorted(by_batch)))

    @property
    def target(self) -> str:
        """Name of the target, without its size."""
        return self.steps[0].target.partition(":")[0]

    @property
    def device_bytes(self) -> int:
        """Memory of the device."""
        return self.steps[0].device_bytes

    def needed(self, images: float, *, in_parts: bool = False) -> float:
        """Returns the bytes that are needed.

        Args:
          images: Images that a device processes at a time.
          in_parts: Whether these are only a part of its images in a step.
        """
        x = [float(step.per_replica_batch_size) for step in self.steps]
        y = [float(step.peak_bytes or 0) for step in self.steps]
        if len(x) == 1:  # what does not grow with the images
            fixed = float(self.steps[0].argument_bytes or 0)
            x, y = [0.0, *x], [fixed, *y]
        first = min(max(int(np.searchsorted(x, images)) - 1, 0), len(x) - 2)
        slopes = np.diff(y) / np.diff(x)
        # Near the limit, compilers compute values twice to save memory, which ends somewhere.
        slope = float(slopes.max() if images > x[-1] else slopes[first])
        if images > x[-1]:
            first += 1
        gradients = self.steps[0].gradient_bytes if in_parts else 0
        return y[first] + slope * (images - x[first]) + gradients

    def largest(self, *, in_parts: bool = False) -> int:
        """Returns the largest power of two of images that fits; 0 if not even one image does."""
        best = 0
        for power in range(24):
            if self.needed(2**power, in_parts=in_parts) > self.device_bytes:
                break
            best = 2**power
        return best

    def _largest_part(self, images: float) -> int:
        """Returns the largest micro-batch that divides a device's images and fits; 0 if none."""
        most = self.largest(in_parts=True)
        if not most or not float(images).is_integer():
            return most
        share = int(images)
        parts = (share // count for count in range(2, share + 1) if share % count == 0)
        return next((part for part in parts if self.fits(part, in_parts=True)), 0)

    def fits(self, images: float, *, in_parts: bool = False) -> bool:
        """Returns whether images fit that a device processes at a time."""
        return self.needed(images, in_parts=in_parts) <= self.device_bytes

    def check(self, images: float, micro_batch_size: int | None = None) -> str:
        """Checks that a step fits, and returns a remark for the user.

        Args:
          images: Images of a device in each step.
          micro_batch_size: Images that it processes at a time; None for all.

        Raises:
          InputError: It does not fit; the message names the micro-batch that does.
        """
        in_parts = micro_batch_size is not None and micro_batch_size < images
        at_once = micro_batch_size if in_parts and micro_batch_size else images
        needed = self.needed(at_once, in_parts=in_parts)
        told = (
            f"{needed / GIB:,.3g} of {self.device_bytes / GIB:,.4g} GiB for {at_once:,.0f} images "
            f"at a time on {self.target}, by XLA's count"
        )
        if needed <= self.device_bytes:
            return f"{told}, without the workspace of libraries"
        part = self._largest_part(images)
        remedy = f"Use --micro_batch_size={part}, which fits, or fewer images per device."
        if not part:
            remedy = "Use smaller images, a smaller model or a device with more memory."
        raise InputError(
            "The images that a device processes at a time must fit into its memory. Received: "
            f"{told}. {remedy}"
        )

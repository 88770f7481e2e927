"""The cost of a model: arithmetic per image and bytes of gradients per step."""

import dataclasses
import functools

from tf_lars.errors import require
from tf_lars.packaged_csv import rows

TRAINING_PASSES = 3
"""Training costs three forward passes: the backward pass takes two products per weight."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """The cost of training a model.

    Attributes:
      name: Name of the model.
      forward_flops: Floating-point operations per image in the forward pass; a multiply-add counts
        as two.
      parameters: Number of trainable weights.
      source: Source of the two numbers.
    """

    name: str
    forward_flops: float
    parameters: int
    source: str = ""

    @property
    def training_flops(self) -> float:
        """Floating-point operations per training image: three times the forward pass."""
        return TRAINING_PASSES * self.forward_flops


@functools.cache
def workloads() -> dict[str, Workload]:
    """Returns the models of workloads.csv by name."""
    return {
        row["model"]: Workload(
            row["model"], float(row["forward_gflop"]) * 1e9, int(row["parameters"]), row["source"]
        )
        for row in rows(__package__, "workloads.csv")
    }


def workload(model: "str | Workload") -> Workload:
    """Returns a model by name; a `Workload` is returned unchanged.

    Raises:
      InputError: The model is unknown; the message lists the known ones.
    """
    if isinstance(model, Workload):
        return model
    require(
        model in workloads(),
        "The model",
        f"one of {', '.join(workloads())}",
        model,
        "Describe any other with planner.Workload: its FLOPs per image and its parameters.",
    )
    return workloads()[model]


def name_at(model: str, image_size: int) -> str:
    """Returns the name of a model's workload: its own name at the image size of workloads.csv."""
    # AlexNet pads images of 224 pixels to the table's 227.
    sizes = (224, 227) if model.startswith("alexnet") else (224,)
    if model in workloads() and image_size in sizes:
        return model
    return f"{model} at {image_size} px"

"""What a model costs: arithmetic per image and bytes of gradients per step."""

import csv
import dataclasses
import functools
import importlib.resources

from tf_lars.errors import InputError

TRAINING_PASSES = 3
"""Training takes the forward arithmetic three times: forward, and two products per weight back."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model to be trained.

    Attributes:
      name: of the model.
      forward_flops: floating-point operations of one image forward, a multiply-add being two.
      parameters: trainable weights.
      source: where the two come from.
    """

    name: str
    forward_flops: float
    parameters: int
    source: str = ""

    @property
    def training_flops(self) -> float:
        """Floating-point operations per trained image: three times the forward pass."""
        return TRAINING_PASSES * self.forward_flops


@functools.cache
def workloads() -> dict[str, Workload]:
    """Returns the known models by name (workloads.csv)."""
    text = importlib.resources.files(__package__).joinpath("workloads.csv").read_text()
    return {
        row["model"]: Workload(
            row["model"], float(row["forward_gflop"]) * 1e9, int(row["parameters"]), row["source"]
        )
        for row in csv.DictReader(text.splitlines())
    }


def workload(model: "str | Workload") -> Workload:
    """Returns a known model.

    Raises:
      InputError: no such model, with those that are known.
    """
    if isinstance(model, Workload):
        return model
    if model not in workloads():
        raise InputError(
            f"The planner knows the models {', '.join(workloads())}. Received: {model!r}. Of any "
            "other, give a planner.Workload with its FLOP per image and its parameters."
        )
    return workloads()[model]


def name_at(model: str, image_size: int) -> str:
    """Returns the workload's name of a model at an image size: its own where the table holds it."""
    # AlexNet pads images of 224 pixels to the 227 of the table.
    sizes = (224, 227) if model.startswith("alexnet") else (224,)
    if model in workloads() and image_size in sizes:
        return model
    return f"{model} at {image_size} px"

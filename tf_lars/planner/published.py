"""Published times to train, to which the planner was fitted and with which it is compared."""

import dataclasses
import functools

from tf_lars.packaged_csv import rows
from tf_lars.recipes.recipes import IMAGENET_EXAMPLES


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """A row of published_results.csv.

    Attributes:
      work: Authors or submitter, and system.
      year: Year of publication.
      tag: "V" for a number read in the source, "V2" for one read in a text that cites it.
      model: Name of the model.
      accelerator: Family of the devices.
      devices: Number of devices.
      global_batch_size: Examples per step, on all devices; None where unpublished.
      epochs: Passes over ImageNet to the target accuracy.
      minutes: Time to train.
      top1: Accuracy reached; None where unknown.
      fitted: Whether the constants of fitted.csv were fitted to it.
      remark: Peculiarity of the result, or "".
      source: Text in which it was read.
    """

    work: str
    year: int
    tag: str
    model: str
    accelerator: str
    devices: int
    global_batch_size: int | None
    epochs: float
    minutes: float
    top1: float | None
    fitted: bool
    remark: str
    source: str

    @property
    def is_mlperf(self) -> bool:
        """Whether this is an MLPerf submission."""
        return self.work.startswith("MLPerf")

    @property
    def step_seconds(self) -> float:
        """Minutes divided among the steps, in seconds; includes evaluation."""
        assert self.global_batch_size
        steps = self.epochs * IMAGENET_EXAMPLES / self.global_batch_size
        return 60 * self.minutes / steps


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """Returns all rows of published_results.csv."""
    return tuple(_parse(row) for row in rows(__package__, "published_results.csv"))


def _parse(row: dict[str, str]) -> PublishedResult:
    return PublishedResult(
        work=row["work"],
        year=int(row["year"]),
        tag=row["tag"],
        model=row["model"],
        accelerator=row["accelerator"],
        devices=int(row["devices"]),
        global_batch_size=int(row["global_batch_size"]) if row["global_batch_size"] else None,
        epochs=float(row["epochs"]),
        minutes=float(row["minutes"]),
        top1=float(row["top1"]) if row["top1"] else None,
        fitted=row["use"] == "fit",
        remark=row["remark"],
        source=row["source"],
    )

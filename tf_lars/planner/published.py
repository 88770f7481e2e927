"""Published times to train: what the planner was fitted to, and what it is held against."""

import csv
import dataclasses
import functools
import importlib.resources

from tf_lars.recipes.recipes import IMAGENET_EXAMPLES


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """A row of published_results.csv.

    Attributes:
      work: who, and which system.
      year: of publication.
      tag: V: read in the source; V2: read in a text that cites it.
      model: name of the model.
      accelerator: family of the devices.
      devices: how many.
      global_batch_size: None where it was not published.
      epochs: passes over ImageNet to the target.
      minutes: time to train.
      top1: accuracy reached; None where unknown.
      fitted: whether the constants of fitted.csv rest on it.
      remark: what sets it apart, or "".
      source: where it was read.
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
        """Seconds per step that the minutes come to, evaluation included."""
        assert self.global_batch_size
        steps = self.epochs * IMAGENET_EXAMPLES / self.global_batch_size
        return 60 * self.minutes / steps


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    """Returns all rows of published_results.csv."""
    text = importlib.resources.files(__package__).joinpath("published_results.csv").read_text()
    return tuple(_parse(row) for row in csv.DictReader(text.splitlines()))


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

"""critical_batch.json: the critical batch at points of a training run, as a file of JSON.

A program that has measured critical batches writes the file, and the planner reads it
(`launch.plan --critical_batch`):

    {
     "format": 1,
     "model": "small_resnet14", "data": "digits", "optimizer": "lars", "tolerance": 0.02,
     "points": [
      {"step": 100, "epoch": 8.9, "examples": 12800, "critical_batch": 900.0, "low": 600.0,
       "high": 1400.0, "noise_scale": 410.0},
      {"step": 200, "epoch": 17.8, "examples": 25600, "critical_batch": null, "low": 2048.0,
       "high": null, "noise_scale": 730.0}
     ]
    }

| key | type | meaning |
|---|---|---|
| `format` | 1 | version of the format |
| `model`, `data`, `optimizer` | text or null | those of the run, by the names of its flags |
| `tolerance` | number above 0, or null | loss by which a larger batch was allowed to be behind |
| `points` | list, not empty | points of training in their order; `step` and `examples` increase |

Each point has all of these keys:

| key | type | meaning |
|---|---|---|
| `step` | whole number from 0 | steps that the run had taken |
| `epoch` | number from 0 | passes over the data until then |
| `examples` | number from 0 | examples seen until then, epoch x examples per epoch |
| `critical_batch` | number above 0, or null | B_crit of E(B) = E_min (1 + B/B_crit) |
| `low`, `high` | number above 0, or null | interval of B_crit, with two chances in three (68 %) |
| `noise_scale` | number above 0, or null | gradient noise scale B_simple at this point |

A point may also have `efficient`, a number above 0 or null: the largest batch whose loss stays
within the tolerance of that of the smallest batch (Merrill et al., arXiv:2505.23971), which a batch
ramp follows.

All but the first three are batches, in examples. B_crit is the batch that needs twice the examples
of a very small one, and larger than the batch within the tolerance. Nulls state what the data do
not:

| critical_batch | low | high | claim |
|---|---|---|---|
| number | number | number | an estimate within its interval, low <= critical_batch <= high |
| number | number | null | an estimate; the interval is unbounded above |
| number | null | number | an estimate; the interval reaches down to 0 |
| number | null | null | an estimate of unknown uncertainty |
| null | number | null | at least `low`, such as the largest batch that was tried |
| null | null | number | at most `high`, such as the smallest batch that was tried |
| null | number | number | between the two |
| null | null | null | none |

Keys that are not listed here are ignored, so that a writer may add its own.
"""

import dataclasses
import itertools
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError, require
from tf_lars.setting import above, number, whole_number, within

FILE_NAME = "critical_batch.json"
"""Name of the file in the folder of a run."""

FORMAT = 1

_LARGEST = 1e18
_EFFICIENT = "efficient"


@dataclasses.dataclass(frozen=True)
class CriticalBatchPoint:
    """The critical batch at a point of training; see the module for the meaning of None.

    Attributes:
      step: Steps that the run had taken.
      epoch: Passes over the data until then.
      examples: Examples seen until then.
      critical_batch: B_crit in examples, or None.
      low, high: Interval that holds B_crit with two chances in three; None where it is unbounded.
      noise_scale: Gradient noise scale B_simple in examples, or None.
      efficient: Largest batch within the tolerance, in examples, or None.

    Raises:
      InputError: A value is out of range, or the interval does not hold the estimate.
    """

    step: int
    epoch: float
    examples: float
    critical_batch: float | None = None
    low: float | None = None
    high: float | None = None
    noise_scale: float | None = None
    efficient: float | None = None

    def __post_init__(self):
        # Numbers of NumPy become Python's, which JSON can hold.
        checked: dict[str, Any] = {"step": whole_number("`step`", self.step, within(0, 10**18))}
        for name in ("epoch", "examples"):
            checked[name] = number(f"`{name}`", getattr(self, name), within(0, _LARGEST))
        for name in ("critical_batch", "low", "high", "noise_scale", _EFFICIENT):
            value = getattr(self, name)
            if value is not None:
                checked[name] = number(f"`{name}`", value, above(0, _LARGEST))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        ordered = [v for v in (self.low, self.critical_batch, self.high) if v is not None]
        require(
            ordered == sorted(ordered),
            "`low`, `critical_batch` and `high`",
            "in ascending order",
            ordered,
        )

    @property
    def is_known(self) -> bool:
        """Whether the point makes any claim about the critical batch."""
        return any(value is not None for value in (self.critical_batch, self.low, self.high))


@dataclasses.dataclass(frozen=True)
class CriticalBatches:
    """The content of a critical_batch.json.

    Attributes:
      points: Points of training, in order; at least one.
      model, data, optimizer: Names of the run's settings, or None.
      tolerance: Loss by which a larger batch was allowed to be behind, or None.

    Raises:
      InputError: There are no points, their steps or examples do not increase, or a value is out
        of range.
    """

    points: tuple[CriticalBatchPoint, ...]
    model: str | None = None
    data: str | None = None
    optimizer: str | None = None
    tolerance: float | None = None

    def __post_init__(self):
        require(self.points, "`points`", "a list of at least one point", list(self.points))
        for name in ("step", "examples"):
            values = [getattr(point, name) for point in self.points]
            increase = all(a < b for a, b in itertools.pairwise(values))
            require(increase, f"`{name}` of the points", "increasing", values)
        for name in ("model", "data", "optimizer"):
            value = getattr(self, name)
            require(value is None or isinstance(value, str), f"`{name}`", "text or null", value)
        if self.tolerance is not None:
            number("`tolerance`", self.tolerance, above(0, _LARGEST))


def read(path: str) -> CriticalBatches:
    """Returns the content of a critical_batch.json.

    Raises:
      InputError: The file cannot be read, or is not of this format.
    """
    try:
        with files.reading(path):
            content = files.read_json(path)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise _refused(path, f"not JSON: {error}") from error
    try:
        return _parse(content)
    except KeyError as error:
        raise _refused(path, f"without {error}") from error
    except InputError as error:
        raise _refused(path, str(error)) from error


def _refused(path: str, reason: str) -> InputError:
    return InputError(
        "A file of critical batches must be of the format in "
        f"tf_lars/planner/critical_batch_file.py. Received: {path!r} "
        f"({reason[:300].rstrip('.')}). Measure it anew, or give a number."
    )


def write(path: str, content: CriticalBatches) -> None:
    """Writes a critical_batch.json, atomically.

    Raises:
      InputError: The file cannot be written.
    """
    files.write_json(path, {"format": FORMAT, **dataclasses.asdict(content)})


def _parse(content: Any) -> CriticalBatches:
    require(isinstance(content, dict), "The content", "a JSON object", type(content).__name__)
    version = whole_number("`format`", content["format"], within(1, 1_000_000))
    require(version == FORMAT, "`format`", f"{FORMAT}", version)
    points = content["points"]
    require(isinstance(points, list), "`points`", "a list", type(points).__name__)
    return CriticalBatches(
        points=tuple(map(_point, points)),
        **{key: content[key] for key in ("model", "data", "optimizer", "tolerance")},
    )


def _point(entry: Any) -> CriticalBatchPoint:
    require(isinstance(entry, dict), "A point", "a JSON object", type(entry).__name__)
    names = [field.name for field in dataclasses.fields(CriticalBatchPoint)]
    names.remove(_EFFICIENT)
    needed = {name: entry[name] for name in names}
    return CriticalBatchPoint(**needed, efficient=entry.get(_EFFICIENT))

"""What a run has written into its folder, for reports: settings, metrics and results.

Only text and numbers are read, so a run of an earlier version, one that is still training and one
that ended with an error have a record too. Whatever is missing is empty.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.tracking import metric_log

FINISHED, DIVERGED, UNFINISHED = "finished", "diverged", "unfinished"
"""States of a run."""

_TOO_LARGE = 1e100


class Series(NamedTuple):
    """The values of a metric.

    Attributes:
      steps: Steps at which it was recorded, `[n]`.
      values: Its values, `[n]`; NaN where they were not finite.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The finite values."""
        return self.values[np.isfinite(self.values)]


class Layers(NamedTuple):
    """A statistic of each variable over time.

    Attributes:
      paths: Paths of the variables, in the order of the model.
      steps: Steps at which it was recorded, `[n]`.
      values: Its values, `[variables, n]`; NaN where there is none.
    """

    paths: tuple[str, ...]
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Attributes:
      folder: Folder of the run.
      settings: Texts of the settings by name; those that were not set are absent.
      lines: Lines of metrics.jsonl, in order.
      results: Content of results.json; empty if there is none.
    """

    folder: str
    settings: Mapping[str, str]
    lines: Sequence[metric_log.Line] = ()
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: str, *, settings: str, metrics: str, results: str) -> "RunRecord":
        """Reads the files of a run; metrics and results may be missing.

        Args:
          folder: Folder of the run.
          settings: Path of its settings, one argument per line.
          metrics: Path of metrics.jsonl.
          results: Path of results.json.

        Raises:
          InputError: The folder is not that of a run, or a file cannot be read.
        """
        if not files.exists(settings) or files.is_folder(settings):
            raise InputError(
                "The folder of a run must hold the flags.txt that launch.local writes. Received: "
                f"no file {settings!r}. Name the --model_dir of a run."
            )
        return cls(
            folder,
            _read(settings, _settings),
            _read(metrics, metric_log.read) if files.exists(metrics) else [],
            _read(results, _results) if files.exists(results) else {},
        )

    @property
    def title(self) -> str:
        """The run in words, such as "resnet50, lars, global batch 4,096"."""
        batch = self.settings.get("global_batch_size", "")
        batch = f"{int(batch):,}" if batch.isdecimal() else batch
        words = [self.settings.get("model"), self.settings.get("optimizer")]
        words += [batch and f"global batch {batch}"]
        words += ["synthetic images" if self.settings.get("data") else ""]
        return ", ".join(word for word in words if word) or "run"

    @functools.cached_property
    def state(self) -> str:
        """One of FINISHED, DIVERGED and UNFINISHED."""
        # The results of an earlier end stay while a run is extended or trained anew.
        if self.results and self.last_step in (None, self.results.get("steps")):
            return FINISHED
        scalars = [line["step"] for line in self.lines if "epoch" in line]
        kinds = [line for line in self.warnings if line["warning"] == DIVERGED]
        # A run that was resumed after that has recovered.
        is_last = kinds and kinds[-1]["step"] >= max(scalars, default=0)
        return DIVERGED if is_last else UNFINISHED

    @functools.cached_property
    def last_step(self) -> int | None:
        """The last step with a metric, or None."""
        return max((line["step"] for line in self.lines), default=None)

    @functools.cached_property
    def starts(self) -> list[metric_log.Line]:
        """The lines of the starts of the process."""
        return [line for line in self.lines if isinstance(line.get("start"), dict)]

    @functools.cached_property
    def warnings(self) -> list[metric_log.Line]:
        """The lines of warnings."""
        return [line for line in self.lines if isinstance(line.get("warning"), str)]

    @functools.cached_property
    def seconds(self) -> Series:
        """The time of training by step, without the time between the end and a new start."""
        steps, seconds, elapsed, before = [], [], 0.0, math.nan
        for line in self.lines:
            now = number(line.get("time"))
            if "start" not in line and now > before:
                elapsed += now - before
            before = now if math.isfinite(now) else before
            steps.append(line["step"])
            seconds.append(elapsed)
        return Series(np.array(steps, float), np.array(seconds, float))

    def series(self, tag: str) -> Series:
        """Returns the values of a metric; empty if it was not recorded."""
        found = [(line["step"], number(line[tag])) for line in self.lines if tag in line]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return Series(np.array(steps, float), np.array(values, float))

    def best(self, tag: str) -> float | None:
        """Returns the largest value of a metric, or None."""
        finite = self.series(tag).finite
        return float(finite.max()) if finite.size else None

    def median(self, tag: str) -> float | None:
        """Returns the median of a metric, or None."""
        finite = self.series(tag).finite
        return float(np.median(finite)) if finite.size else None

    def layers(self, tag: str) -> Layers:
        """Returns a statistic of each variable; empty if it was not recorded."""
        rows: dict[str, dict[int, float]] = {}
        steps: list[int] = []
        for line in self.lines:
            tags = line.get("layers")
            values = tags.get(tag) if isinstance(tags, dict) else None
            if not isinstance(values, dict) or not values:
                continue
            for path, value in values.items():
                rows.setdefault(path, {})[len(steps)] = number(value)
            steps.append(line["step"])
        table = np.full((len(rows), len(steps)), math.nan)
        for row, found in enumerate(rows.values()):
            table[row, list(found)] = list(found.values())
        return Layers(tuple(rows), np.array(steps, float), table)

    @functools.cached_property
    def has_epochs(self) -> bool:
        """Whether epochs were recorded, so that they can be the axis of plots."""
        return bool(self.series("epoch").finite.size)

    def epochs_at(self, steps: np.ndarray) -> np.ndarray:
        """Returns the epochs, in fractions, at some steps; the steps themselves if unknown."""
        known = self.series("epoch")
        usable = np.isfinite(known.values)
        if not usable.any():
            return steps
        order = np.argsort(known.steps[usable], kind="stable")
        return np.interp(steps, known.steps[usable][order], known.values[usable][order])

    def seconds_at(self, steps: np.ndarray) -> np.ndarray:
        """Returns the seconds of training at some steps."""
        return np.interp(steps, *self.seconds) if len(self.lines) else steps


def number(value: Any) -> float:
    """Returns a value of JSON as a float; NaN if it is not a number, or too large to be drawn."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _TOO_LARGE else math.nan


def _read(path: str, read: Any) -> Any:
    try:
        with files.reading(path):
            return read(path)
    except (ValueError, RecursionError) as error:  # also of the decoding of UTF-8
        if isinstance(error, InputError):
            raise
        raise InputError(
            "The files of a run must be as its launcher has written them. Received: "
            f"{path!r} ({str(error)[:200]}). Restore or remove that file."
        ) from error


def _settings(path: str) -> dict[str, str]:
    with files.open_file(path, "r") as file:
        lines = [line for line in file.read().splitlines() if line.strip()]
    if not all(line.startswith("--") and "=" in line for line in lines):
        raise ValueError("a line is not of the form --name=value")
    return dict(line.removeprefix("--").split("=", 1) for line in lines)


def _results(path: str) -> dict[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found

"""The results of a study as a CSV file, with a line per trial written as soon as it ends."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from tf_lars.errors import InputError
from tf_lars.setting import at_least, number, within
from tf_lars.study.search_space import Point
from tf_lars.study.trials import Result, Trial

_TRIAL: dict[str, Callable[[str], Any]] = {
    "optimizer": str,
    "global_batch_size": int,
    "epochs": int,
    "warmup_epochs": float,
    "augmentation": str,
    "seed": int,
}
_POINT: dict[str, Callable[[str], Any]] = {
    "learning_rate": float,
    "momentum": float,
    "weight_decay": float,
}
_RESULT: dict[str, Callable[[str], Any]] = {
    "steps": int,
    "diverged": lambda text: text == "True",
    "training_loss": float,
    "held_out_top1": lambda text: number("held_out_top1", float(text), within(0, 1)),
    "held_out_loss": float,
    "test_top1": lambda text: number("test_top1", float(text), within(0, 1)),
    "test_loss": float,
    "seconds": lambda text: number("seconds", float(text), at_least(0)),
    # Written as "3:0.91 6:0.95": epochs and accuracies.
    "curve": lambda text: tuple(_evaluation(part) for part in text.split()),
}


def _evaluation(text: str) -> tuple[int, float]:
    epochs, top1 = text.split(":")
    return int(epochs), number("curve", float(top1), within(0, 1))


class ResultLog:
    """The file of results, with the settings that its trials share in a second file.

    Trials in the file are not run again. A last line that is incomplete, because the process was
    killed while writing it, is removed.

    Args:
      path: Path of the CSV file, STUDY.csv; the settings are in STUDY.settings.json.
      settings: Settings that all trials have in common; a file with other settings is refused.

    Attributes:
      results: Results of all trials in the file.

    Raises:
      InputError: The file belongs to a study with other settings, is not a file of results, or
        cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, object]):
        self.path = os.fspath(path)
        self.results: dict[Trial, Result] = {}
        try:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            self._agree(json.loads(json.dumps(settings)))
            if os.path.exists(self.path):
                self._read()
        except OSError as error:
            raise InputError(
                "The results must go to a file that can be written. Received: "
                f"{self.path!r} ({error.strerror})."
            ) from error

    @property
    def settings_path(self) -> str:
        """Path of the file with the settings."""
        return f"{self.path.removesuffix('.csv')}.settings.json"

    def add(self, result: Result) -> None:
        """Appends a result to the file and flushes it to disk."""
        values = {
            name: getattr(source, name)
            for source, names in (
                (result.trial, _TRIAL),
                (result.trial.point, _POINT),
                (result, _RESULT),
            )
            for name in names
        }
        text = io.StringIO()
        table = csv.DictWriter(text, values, lineterminator="\n")
        if not os.path.exists(self.path) or not os.path.getsize(self.path):
            table.writeheader()
        table.writerow({name: _as_text(value) for name, value in values.items()})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        self.results[result.trial] = result

    def _agree(self, settings: Mapping[str, object]) -> None:
        """Compares the settings with those of the file, or writes them if there are none."""
        if not os.path.exists(self.settings_path):
            if os.path.exists(self.path):
                raise InputError(
                    "A study continues from its results and its settings. Received: "
                    f"{self.path!r} without {self.settings_path!r}. Name another --output."
                )
            temporary = f"{self.settings_path}.{os.getpid()}"
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(settings, file, indent=1)
                file.write("\n")
            os.replace(temporary, self.settings_path)
            return
        try:
            with open(self.settings_path, encoding="utf-8") as file:
                before = dict(json.load(file))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(
                "The settings must be those of a study. Received: "
                f"{self.settings_path!r} ({error}). Name another --output."
            ) from error
        others = [
            f"{name}={before.get(name)} (now {settings.get(name)})"
            for name in dict.fromkeys([*before, *settings])
            if before.get(name) != settings.get(name)
        ]
        if others:
            raise InputError(
                f"A study continues with the settings that it began with. Received: {self.path!r} "
                f"with {', '.join(others)}. Give the same settings, or another --output."
            )

    def _read(self) -> None:
        with open(self.path, "rb+") as file:
            content = file.read()
            whole = content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b""
            if len(whole) < len(content):
                file.truncate(len(whole))
        line = 1
        try:
            for row in csv.DictReader(whole.decode().splitlines()):
                line += 1
                trial, point, result = (
                    {name: read(row[name]) for name, read in names.items()}
                    for names in (_TRIAL, _POINT, _RESULT)
                )
                tried = Trial(**trial, point=Point(**point))
                self.results[tried] = Result(tried, **result)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                "The results must be those of a study. Received: "
                f"{self.path!r}, line {line} ({error!r}). Name another --output."
            ) from error


def _as_text(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join(f"{epochs}:{top1:.6g}" for epochs, top1 in value)
    return f"{value:.6g}" if isinstance(value, float) else value

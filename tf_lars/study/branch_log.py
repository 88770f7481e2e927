"""The results of branches as a CSV file, with a line per branch written as soon as it ends."""

import csv
import io
import os
from collections.abc import Callable
from typing import Any

from tf_lars import files
from tf_lars.errors import InputError
from tf_lars.study.branches import BLOCKS, Branch, BranchResult

_COLUMNS: dict[str, Callable[[str], Any]] = {
    "step": int,
    "repeat": int,
    "global_batch_size": int,
    "losses": lambda text: tuple(map(float, text.split())),
    "noise_scale": lambda text: float(text) if text else None,
    "seconds": float,
}


class BranchLog:
    """A file of results; branches in the file are not run again.

    The first line holds the settings that all branches share. A last line that is incomplete,
    because the process was killed while writing it, is dropped.

    Args:
      path: Path of the CSV file.
      settings: Text with the settings; a file with other settings is refused.

    Attributes:
      results: Results by branch.

    Raises:
      InputError: The file has other settings, is not a file of branches, or cannot be read.
    """

    def __init__(self, path: str, settings: str):
        self.path = path
        self.results: dict[Branch, BranchResult] = {}
        self._settings = f"# {settings}"
        if files.exists(path):
            self._read()

    def add(self, result: BranchResult) -> None:
        """Adds a result, and writes the file anew, atomically."""
        self.results[result.branch] = result
        text = io.StringIO()
        text.write(f"{self._settings}\n")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for one in self.results.values():
            scale = "" if one.noise_scale is None else f"{one.noise_scale:.6g}"
            key = (one.branch.step, one.branch.repeat, one.branch.global_batch_size)
            losses = " ".join(f"{loss:.8g}" for loss in one.losses)
            table.writerow([*key, losses, scale, f"{one.seconds:.3f}"])
        with files.writing(self.path):
            files.make_folder(os.path.dirname(self.path) or ".")
        files.write_whole(self.path, text.getvalue().encode())

    def _read(self) -> None:
        with files.reading(self.path), files.open_file(self.path, "r") as file:
            settings, *lines = file.read().splitlines() or [""]
        if settings != self._settings:
            raise InputError(
                "Branches continue with the settings that they began with. Received: "
                f"{self.path!r} with {settings[2:300]!r} (now {self._settings[2:300]!r}). Give the "
                "same settings, or remove that file."
            )
        try:
            for row in csv.DictReader(lines):
                values = {name: read(row[name]) for name, read in _COLUMNS.items()}
                key = (values.pop("step"), values.pop("repeat"), values.pop("global_batch_size"))
                branch = Branch(*key)
                if len(values["losses"]) != BLOCKS:
                    raise ValueError(f"{len(values['losses'])} losses")
                self.results[branch] = BranchResult(branch, **values)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"The file must hold results of branches. Received: {self.path!r} ({error!r}). "
                "Remove it."
            ) from error

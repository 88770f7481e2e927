"""Compares finished and unfinished runs: their settings, results and curves.

python -m launch.compare runs/lars runs/sgd
python -m launch.compare runs/* --output=compare.html
"""

import dataclasses
import os
from collections.abc import Sequence

from launch.cli import app, flags
from launch.run import layout
from launch.run.settings import default_texts
from tf_lars import files
from tf_lars.errors import EXIT_DONE, InputError
from tf_lars.setting import Rule, check, setting
from tf_lars.tracking import comparison

MOST_RUNS = 32


def _can_be_page(path: str) -> bool:
    folder = os.path.dirname(path) or "."
    is_there = files.is_remote(path) or (os.path.isdir(folder) and not os.path.isdir(path))
    return not path or (path.endswith(".html") and is_there)


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range.
    """

    output: str = setting(
        "Page with the tables and the curves of the runs; empty for none.",
        "compare.html",
        rule=Rule("a .html file in an existing folder", _can_be_page),
        group="Comparison",
    )

    def __post_init__(self):
        check(self)


def define() -> None:
    """Defines the program's flags."""
    flags.define(CompareSettings)


def main(folders: Sequence[str]) -> int:
    """Prints the tables and writes the page.

    Args:
      folders: Folders of the runs.
    """
    asked = CompareSettings(**flags.values(CompareSettings))
    if not 2 <= len(folders) <= MOST_RUNS:
        raise InputError(
            f"A comparison needs 2 to {MOST_RUNS} runs. Received: "
            f"{', '.join(map(repr, folders[:3])) or 'none'}"
            f"{f' and {len(folders) - 3} more' if len(folders) > 3 else ''}. Name the folders "
            "(--model_dir) of the runs: python -m launch.compare RUN RUN."
        )
    records = [layout.record_of(folder) for folder in folders]
    defaults = default_texts()
    names = comparison.names(records)
    changed = comparison.differences(records, defaults)
    print(comparison.table(("results", *names), comparison.results(records)))
    if changed:
        print(f"\n{comparison.table(('settings that differ', *names), changed)}", flush=True)
    else:
        print("\nThe runs have the same settings, except for their folders.", flush=True)
    if asked.output:
        text = comparison.page(records, defaults)
        with files.writing(asked.output), files.open_file(asked.output, "wb") as file:
            file.write(text.encode(errors="replace"))
        print(f"\npage in {asked.output}")
    return EXIT_DONE


if __name__ == "__main__":
    define()
    app.run(main, takes_arguments=True)

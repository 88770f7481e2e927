"""CSV files that are installed with the package."""

import csv
import importlib.resources


def rows(package: str, name: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, each as text by column name.

    Args:
      package: Name of the package that contains the file, usually `__package__`.
      name: File name.
    """
    text = importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))

"""Published facts next to the checkout (../shared/facts), to compare the package's data with."""

import csv

import pytest

from tests.helpers.paths import SHARED

FOLDER = SHARED / "facts"

needs_facts = pytest.mark.skipif(
    not FOLDER.exists(), reason="no facts next to this checkout (../shared/facts)"
)


def rows(name):
    """Returns the rows of a table of facts, as text by column name."""
    with open(FOLDER / name, newline="") as file:
        return list(csv.DictReader(file))

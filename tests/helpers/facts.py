"""Published facts beside the checkout (../shared/facts), for tests that hold them against ours."""

import csv

import pytest

from tests.helpers.paths import SHARED

FOLDER = SHARED / "facts"

needs_facts = pytest.mark.skipif(
    not FOLDER.exists(), reason="the facts are not beside this checkout (../shared/facts)"
)


def rows(name):
    """The rows of a table of facts, as dictionaries of text."""
    with open(FOLDER / name, newline="") as file:
        return list(csv.DictReader(file))

"""The figures can be drawn, and tables and numbers of the page match the files."""

import re

import pytest

from benchmarks import communication_by_batch, large_batch_page, tables
from tests.helpers.paths import ROOT

RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "large_batch.md"


@pytest.fixture(scope="module")
def contents():
    return large_batch_page.tables(RESULTS)


def test_every_picture_is_drawn_committed_and_shown(tmp_path):
    for path in large_batch_page.pictures(RESULTS, tmp_path):
        name = path.rpartition("/")[2]
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (ROOT / "docs" / name).stat().st_size < 200_000
        assert f"({name})" in PAGE.read_text()


def test_the_tables_of_the_page_are_those_of_the_files(contents):
    page = PAGE.read_text()
    assert tables.fill(page, contents) == page


@pytest.mark.parametrize("path", ["docs/large_batch.md", "README.md"])
def test_measured_numbers_in_the_text_are_in_the_tables(contents, path):
    text = (ROOT / path).read_text()
    if path == "README.md":
        text = text.partition("docs/large_batch")[2].partition("With Python")[0]
    prose = re.sub(r"<!-- table.*?<!-- end -->|```.*?```", "", text, flags=re.DOTALL)
    prose = re.sub(r"arXiv:[\d.]+|momentum [\d.]+", "", prose)
    numbers = re.findall(r"(?<![\w.-])\d+\.\d+(?=[ ,.;:)%])", prose)
    assert numbers
    printed = "\n".join(contents.values())
    assert [one for one in numbers if not re.search(rf"(?<![\d.]){one}(?!\d)", printed)] == []


def test_an_epoch_sends_bytes_in_proportion_to_its_steps():
    runs = [{"parameters": 1_000_000, "images_per_second": rate} for rate in (500.0, 1000.0)]
    small, large = (communication_by_batch.row(4, batch, runs) for batch in (128, 512))
    # 1,437 images; each of four workers sends 3/2 of 4 MB for each step.
    assert small["megabytes_per_epoch"] == pytest.approx(1437 / 128 * 6, abs=0.05)
    assert small["megabytes_per_epoch"] == pytest.approx(4 * large["megabytes_per_epoch"], abs=0.3)
    assert small["fastest_seconds_per_epoch"] == pytest.approx(1.437)
    assert communication_by_batch.row(1, 128, runs)["megabytes_per_epoch"] == 0

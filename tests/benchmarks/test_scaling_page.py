"""The page's figures can be drawn, and its tables match the files."""

import pathlib

import pytest

from benchmarks import scaling_page, scaling_pictures, tables
from tf_lars import planner

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", scaling_pictures.PICTURES)
def test_every_picture_is_drawn_committed_and_shown(name, tmp_path):
    scaling_pictures.PICTURES[name](tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs" / name).stat().st_size < 200_000
    assert f"({name})" in (ROOT / "docs" / "scaling.md").read_text()


def test_the_tables_of_the_page_are_those_of_the_files():
    page = (ROOT / "docs" / "scaling.md").read_text()
    contents = scaling_page.tables(ROOT / "benchmarks" / "results")
    assert tables.fill(page, contents) == page


def test_a_table_without_a_place_is_an_error():
    with pytest.raises(ValueError, match="places for"):
        tables.fill("no tables here", {"records": "| |"})


def test_knl_of_the_page_is_calibrated_on_the_two_rows_alone():
    knl = scaling_pictures.knl()
    assert knl.runs == 2
    plan = planner.predict(accelerator=knl, devices=2048, global_batch_size=32768, epochs=90)
    assert plan.minutes == pytest.approx(20, rel=0.15)

import re
import sys

from tf_lars.data.prepare import progress_bar
from tf_lars.data.prepare.progress_bar import Progress


def test_without_a_terminal_short_work_says_nothing(capsys):
    with Progress("prepare", 4, "images") as bar:
        bar.advance(4)
    assert capsys.readouterr().out == ""


def test_without_a_terminal_long_work_says_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 0)
    with Progress("prepare", 4000, "images") as bar:
        bar.advance(1000)
        bar.advance(500)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("prepare: 1,000 of 4,000 images, ")
    assert second.startswith("prepare: 1,500 of 4,000 images, ")
    assert second.endswith(" s left")


def test_a_terminal_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("prepare", 40, "images") as bar:
        bar.advance(10)
        bar.advance(30)
    shown = capsys.readouterr().out
    last = shown.split("prepare")[-1]
    assert "40/40" in last
    assert "100%" in last
    assert re.search(r"[\d,]+ images/s", last)
    assert "0:00:00" in last

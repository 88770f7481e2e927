"""Progress of a run, in a file and on a terminal."""

import io
import itertools
import re

import pytest

from tests.helpers import terminal
from tf_lars.tracking import console
from tf_lars.tracking.console import ProgressLine, clock

LOGS = {"loss": 0.5, "top1": 0.25, "learning_rate": 3.0, "images_per_second": 1234.5}
WAITING = LOGS | {"input_wait": 0.12}


def _train(line, logs, note=lambda step: None, steps_per_call=5):
    for epoch in range(2):
        line.on_epoch_begin(epoch)
        for step in range(10 * epoch, 10 * epoch + 10, steps_per_call):
            line.on_train_batch_begin(step)
            line.on_train_batch_end(step + steps_per_call - 1, logs)
            note(step)
        line.on_epoch_end(epoch, logs | {"step": 10 * (epoch + 1), "val_loss": 0.4, "val_top1": 1})
    line.on_train_end()


@pytest.fixture
def clock_of_seconds(monkeypatch):
    """Time passes by one second whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(ticks)))


def test_a_file_gets_a_line_per_epoch_with_rate_time_left_and_validation(clock_of_seconds):
    stream = io.StringIO()
    _train(ProgressLine(total_steps=20, epochs=2, stream=stream), LOGS)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  step 10/20  loss 0.5000  top-1 25.00%  lr 3  1,234 images/s  ETA 0:04"
        "  | validation: loss 0.4000  top-1 100.00%",
        "epoch 2/2  step 20/20  loss 0.5000  top-1 25.00%  lr 3  1,234 images/s  ETA 0:00"
        "  | validation: loss 0.4000  top-1 100.00%",
    ]


def test_a_file_gets_lines_within_an_epoch_at_most_once_per_interval(clock_of_seconds):
    stream = io.StringIO()
    line = ProgressLine(total_steps=100, epochs=1, stream=stream, seconds_between_lines=30.0)
    line.on_epoch_begin(0)
    for step in range(70):  # one second each
        line.on_train_batch_end(step, LOGS)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("epoch 1/1  step 31/100  loss 0.5000")
    assert second.startswith("epoch 1/1  step 62/100  loss 0.5000")


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        (LOGS, ""),
        (LOGS | {"input_wait": 0.05}, ""),
        (LOGS | {"input_wait": float("nan")}, ""),
        (WAITING, "  waiting for input 12%"),
    ],
)
def test_waiting_for_input_is_said_above_five_percent(logs, said):
    stream = io.StringIO()
    _train(ProgressLine(total_steps=20, epochs=2, stream=stream), logs)
    for line in stream.getvalue().splitlines():
        assert re.search(r"ETA [\d:-]+" + said + r"  \| validation", line), line


def test_skipped_steps_are_said():
    stream = io.StringIO()
    line = ProgressLine(total_steps=20, epochs=2, stream=stream)
    line.on_epoch_end(0, WAITING | {"step": 10, "skipped_steps": 3})
    assert stream.getvalue().endswith("  waiting for input 12%  3 steps skipped\n")


def test_durations_are_readable():
    assert [clock(s) for s in (0, 61, 3600, 36_610)] == ["0:00", "1:01", "1:00:00", "10:10:10"]


ON_A_TERMINAL = """
import sys
from tests.tracking import test_console as test
test.console.SECONDS_BETWEEN_DRAWINGS = 0
line = test.ProgressLine(total_steps=20, epochs=2)
note = lambda step: print("after step", step, file=sys.stderr if step else None)
print("before")
test._train(line, test.WAITING, note)
print("end")
"""


@pytest.mark.parametrize("columns", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_a_terminal_shows_one_bar_in_place_below_a_line_per_epoch(columns):
    written = terminal.run(ON_A_TERMINAL, columns)
    frames = [
        terminal.screen(written[: frame.start()], columns)
        for frame in re.finditer(r"\r\x1b\[2K", written)
    ]
    assert len(frames) > 5
    for frame in frames:
        bar, details = [line for line in frame if line][-2:]
        assert bar.startswith("epoch ")
        assert len([line for line in frame if "━" in line]) == 1
        assert details in ("starting", *_details(columns))
    assert re.fullmatch(r"epoch 2/2 ━+ 100%  ETA 0:00", bar)
    assert len(bar) == columns
    # The bar is gone; lines of epochs, and what was printed meanwhile, have stayed.
    lines = [line for line in terminal.screen(written, columns) if line]
    assert lines[0] == "before"
    assert lines[1] == "after step 0"
    kept = "".join(line.ljust(columns) for line in lines[2:-1])
    for epoch in (1, 2):
        expected = (
            f"epoch {epoch}/2  step {epoch}0/20  loss 0.5000  top-1 25.00%  lr 3  1,234 images/s  "
            "ETA 0:00  waiting for input 12%  | validation: loss 0.4000  top-1 100.00%"
        )
        assert expected in kept
        kept = kept.replace(expected, "")
    assert not kept.strip()
    assert lines[-1] == "end"
    assert written.count("\x1b[?25l") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def _details(columns):
    for step in (5, 10, 15, 20):
        full = (
            f"step {step}/20  loss 0.5000  top-1 25.00%  lr 3  1,234 images/s  "
            "waiting for input 12%"
        )
        yield full if columns == 100 else f"step {step}/20  loss 0.5000"


@pytest.mark.slow
def test_a_training_that_ends_with_an_error_leaves_the_terminal_as_it_was():
    begun = ON_A_TERMINAL[: ON_A_TERMINAL.index("test._train")]
    code = f"{begun}line.on_train_batch_begin(0)\nprint('word ' * 30)\nraise SystemExit"
    written = terminal.run(code, 40)
    assert "word " * 30 + "\r\n" in written  # whole, so that it can be copied
    lines = terminal.screen(written, 40)
    assert "".join(line.ljust(40) for line in lines).split() == ["before", *["word"] * 30]
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


@pytest.mark.slow
def test_a_terminal_that_cannot_move_its_cursor_gets_lines():
    written = terminal.run(ON_A_TERMINAL, 100, environment={"TERM": "dumb"})
    assert "\x1b" not in written
    assert len(written.splitlines()) == 5


def test_a_file_gets_no_control_codes_even_where_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    _train(ProgressLine(total_steps=20, epochs=2, stream=stream), LOGS)
    assert "\x1b" not in stream.getvalue()

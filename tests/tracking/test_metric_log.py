"""The files of metrics, beside a thread that is busy."""

import threading

import pytest

from tf_lars.tracking import metric_log
from tf_lars.tracking.metric_log import MetricLog
from tf_lars.tracking.scalars import ScalarLogger

PIXEL = (1, 1, b"not looked at")


@pytest.fixture
def log(tmp_path):
    log = MetricLog(str(tmp_path / "events"), str(tmp_path / "metrics.jsonl"))
    log.begin(0, {})
    yield log
    log.close()


@pytest.fixture
def ready(log):
    """An event for which the thread of the log waits before it writes a line of step 1."""
    ready = threading.Event()

    def draw():
        ready.wait(60)
        return PIXEL

    log.image(1, "picture", draw)
    log.scalars(1, {"loss": 1.0})
    yield ready
    ready.set()


def _steps(tmp_path):
    return [line["step"] for line in metric_log.read(str(tmp_path / "metrics.jsonl"))]


def test_what_was_written_before_a_flush_is_in_the_file_after_it(log, ready, tmp_path):
    threading.Timer(0.5, ready.set).start()
    log.flush()
    assert _steps(tmp_path) == [0, 1]


def test_what_any_callback_wrote_in_an_epoch_is_in_the_file_after_it(log, ready, tmp_path):
    scalars = ScalarLogger(log, lambda: 0, epoch_of=float, every=100)
    scalars.on_epoch_end(0, {"step": 2, "loss": 0.5})
    log.line(2, warning="of a later callback")
    threading.Timer(0.5, ready.set).start()
    scalars.after_epoch(2)
    lines = metric_log.read(str(tmp_path / "metrics.jsonl"))
    assert sorted(tuple(line)[2:] for line in lines if line["step"] == 2) == [
        ("epoch", "loss"),
        ("warning",),
    ]


def test_training_goes_on_after_waiting_for_storage(log, ready, tmp_path, capsys):
    log.flush(seconds=0.01)
    log.flush(seconds=0.01)
    printed = capsys.readouterr().out
    assert printed.count("warning: metrics are not yet written to") == 1
    assert "after 0.01 s; training continues." in printed
    ready.set()
    log.close()
    assert _steps(tmp_path) == [0, 1]

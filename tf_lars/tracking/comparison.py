"""Runs side by side: the settings in which they differ, their results and their curves."""

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_lars.tracking import html_page, run_pictures
from tf_lars.tracking.html_page import text_of
from tf_lars.tracking.run_pictures import COLOURS, Curve
from tf_lars.tracking.run_record import FINISHED, RunRecord

Rows = list[tuple[str, ...]]
"""Rows of a table: a name, and a text for each run."""

NONE = "-"
_FOLDERS = ("model_dir",)
"""Settings that differ between any two runs and do not matter."""
_RESULTS = ("top1", "top5", "loss", "steps", "epochs", "images_per_second", "seconds")


def names(records: Sequence[RunRecord]) -> list[str]:
    """Returns short names of the runs, each different: of their folders, or numbered paths."""
    found = [os.path.basename(os.path.normpath(record.folder)) for record in records]
    if len(set(found)) == len(found):
        return found
    found = [record.folder for record in records]
    if len(set(found)) == len(found):
        return found
    return [f"{name} ({number})" for number, name in enumerate(found, 1)]


def differences(records: Sequence[RunRecord], defaults: Mapping[str, str]) -> Rows:
    """Returns the settings in which the runs differ.

    Args:
      records: Records of the runs.
      defaults: Texts of the defaults by name, for settings that are newer than a run.
    """
    rows = []
    for name in dict.fromkeys(name for record in records for name in record.settings):
        texts = [record.settings.get(name, defaults.get(name, "not set")) for record in records]
        if len(set(texts)) > 1 and name not in _FOLDERS:
            rows.append((name, *(text or '""' for text in texts)))
    return rows


def results(records: Sequence[RunRecord]) -> Rows:
    """Returns the state, the results and the number of warnings of the runs."""
    rows: Rows = [("state", *(record.state for record in records))]
    for name in _RESULTS:
        rows.append((name, *(_text(name, _result(record, name)) for record in records)))
    best = [_text("top1", record.best("val_top1")) for record in records]
    rows.insert(3, ("best val_top1", *best))
    rows.append(("warnings", *(str(len(record.warnings)) for record in records)))
    return rows


def table(headings: Sequence[str], rows: Rows) -> str:
    """Returns a table as text with aligned columns."""
    lines = [tuple(headings), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def page(records: Sequence[RunRecord], defaults: Mapping[str, str]) -> str:
    """Returns the page with curves and both tables; its arguments are those of `differences`."""
    shown = names(records)
    changed = differences(records, defaults)
    numeric = range(1, len(records) + 1)
    return html_page.page(
        f"{len(records)} runs compared - tf-lars",
        f"<header><h1>{len(records)} runs compared</h1>{_legend(records, shown)}</header>",
        html_page.section(
            "Curves",
            _curves(records)
            or html_page.paragraph("None of the runs has curves in its metrics.jsonl."),
        ),
        html_page.section(
            "Results",
            html_page.table(("", *shown), results(records), numeric=numeric, label="results"),
        ),
        html_page.section(
            "Settings that differ",
            html_page.table(("setting", *shown), changed)
            if changed
            else html_page.paragraph("The runs have the same settings, except for their folders."),
        ),
    )


def _result(record: RunRecord, name: str) -> Any:
    """Returns a result of a finished run, and what an unfinished one has reached so far."""
    if record.state == FINISHED:
        return record.results.get(name)
    if name == "steps":
        return record.last_step
    if name == "epochs":
        finite = record.series("epoch").finite
        return float(finite[-1]) if finite.size else None
    if name == "images_per_second":
        return record.median("throughput/images_per_second")
    if name == "seconds":
        return float(record.seconds.values[-1]) if record.lines else None
    return None


def _text(name: str, value: Any) -> str:
    return NONE if value is None else text_of(name, value)


def _legend(records: Sequence[RunRecord], shown: Sequence[str]) -> str:
    entries = "".join(
        f'<li><span class="key" style="background:{COLOURS[number % len(COLOURS)]}"></span>'
        f"<b>{html.escape(name)}</b> {html.escape(record.title)} "
        f'<span class="pill {record.state}">{record.state}</span></li>'
        for number, (record, name) in enumerate(zip(records, shown, strict=True))
    )
    return f'<ul class="legend">{entries}</ul>'


def _curves(records: Sequence[RunRecord]) -> str:
    longest = max((record.seconds.values[-1] for record in records if record.lines), default=0.0)
    unit, size = next(
        (unit, size)
        for unit, size in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
        if longest >= 2 * size or size == 1
    )
    drawn = []
    for over in ("epochs", unit):
        for tag, caption in (("val_top1", "Validation top-1"), ("loss", "Training loss")):
            curves = []
            for number, record in enumerate(records):
                series = record.series(tag)
                if not series.finite.size or (over == "epochs" and not record.has_epochs):
                    continue
                at = record.epochs_at if over == "epochs" else record.seconds_at
                x = at(series.steps) / (1.0 if over == "epochs" else size)
                # Colours repeat; the second round is dashed.
                curves.append(Curve("", x, series.values, number, number // len(COLOURS) % 2 == 1))
            if not curves:
                continue
            axis = "epoch" if over == "epochs" else f"{over} of training"
            values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves])
            log = tag == "loss" and bool(0 < 20 * values.min() < values.max())
            svg = run_pictures.curves(curves, axis, percent=tag == "val_top1", log=log)
            alt = f"{caption} of {len(curves)} runs by {axis}."
            drawn.append(html_page.picture(f"{caption} over {over}", alt, svg))
    return html_page.pictures(drawn)

"""report.html: what a run did, in one file that any browser shows without a network."""

import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tf_lars import files
from tf_lars.tracking import html_page, report_plots
from tf_lars.tracking.html_page import section, text_of
from tf_lars.tracking.report_plots import NO_METRICS
from tf_lars.tracking.run_record import FINISHED, RunRecord, number

LISTED_WARNINGS = 50


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The planner's forecast beside what happened.

    Attributes:
      sentences: What to know about it, or why there is none.
      rows: Quantity, forecast, measured, and the ratio of the two, as text.
    """

    sentences: Sequence[str]
    rows: Sequence[tuple[str, str, str, str]] = ()


def write(record: RunRecord, path: str, *, defaults: Mapping[str, str], forecast: Forecast) -> None:
    """Writes the page of a run.

    Args:
      record: Record of the run.
      path: Path of the file, local or remote.
      defaults: Texts of the defaults of the settings by name, without those that are not set.
      forecast: The planner's forecast.
    """
    text = draw(record, defaults=defaults, forecast=forecast)
    temporary = files.temporary_path(path)
    with files.open_file(temporary, "wb") as file:
        file.write(text.encode(errors="replace"))
    files.rename(temporary, path)


def draw(record: RunRecord, *, defaults: Mapping[str, str], forecast: Forecast) -> str:
    """Returns the page of a run as HTML; the arguments are those of `write`."""
    return html_page.page(
        f"{record.title} - tf-lars",
        _header(record),
        _health(record),
        report_plots.training(record),
        report_plots.throughput(record),
        report_plots.layers(record),
        report_plots.noise(record),
        report_plots.devices(record),
        _forecast(forecast),
        _results(record),
        _settings(record, defaults),
        _environment(record),
    )


def _header(record: RunRecord) -> str:

    results, last = record.results, record.lines[-1] if record.lines else {}
    when = html_page.moment(number(last.get("time")))
    step = f"at step {record.last_step:,}, " if record.last_step is not None else ""
    pairs = []
    for name, tag in (("top-1", "top1"), ("loss", "loss")):
        if record.state == FINISHED and tag in results:
            pairs.append((f"{name}, validation", text_of(tag, results[tag])))
        elif (series := record.series(f"val_{tag}").finite).size:
            pairs.append((f"{name}, validation so far", text_of(tag, float(series[-1]))))
    best = record.best("val_top1")
    if best is not None:
        pairs.append(("best top-1", text_of("top1", best)))
    speed = record.median("throughput/images_per_second")
    if record.state == FINISHED:
        speed = results.get("images_per_second", speed)
    if speed is not None:
        pairs.append(("images/s, median", text_of("", speed)))
    if record.state == FINISHED and "seconds" in results:
        pairs.append(("time of training", text_of("seconds", results["seconds"])))
    elif record.seconds.values.size:
        pairs.append(("time of training", html_page.duration(float(record.seconds.values[-1]))))
    if record.lines:
        pairs.append(("warnings", str(len(record.warnings))))
    return (
        f"<header><h1>{html.escape(record.title)}</h1>"
        f'<p class="soft"><span class="pill {record.state}">{record.state}</span> {step}'
        f"{html.escape(when)} in {html.escape(record.folder)}</p>"
        f"{html_page.facts(pairs) if pairs else ''}</header>"
    )


def _health(record: RunRecord) -> str:
    found = record.warnings
    if not found:
        reason = "No warnings." if record.lines else f"No warnings are known: {NO_METRICS}"
        return section("Health", html_page.paragraph(reason))
    epochs = record.epochs_at(np.array([line["step"] for line in found], float))
    rows = [
        (line["warning"].replace("_", " "), f"{line['step']:,}", f"{epoch:.2f}", _message(line))
        for line, epoch in zip(found, epochs, strict=True)
    ]
    if not record.has_epochs:
        rows = [(kind, step, "-", message) for kind, step, _, message in rows]
    counts = {kind: 0 for kind, *_ in rows}
    for kind, *_ in rows:
        counts[kind] += 1
    summary = ", ".join(f"{kind}: {count}" for kind, count in counts.items())
    hidden = len(rows) - LISTED_WARNINGS
    more = f" The last {LISTED_WARNINGS} are listed." if hidden > 0 else ""
    return section(
        "Health",
        html_page.paragraph(
            f"{len(rows)} {'warning' if len(rows) == 1 else 'warnings'}, by kind: {summary}.{more}"
        ),
        html_page.table(
            ("kind", "step", "epoch", "finding"), rows[-LISTED_WARNINGS:], numeric=(1, 2)
        ),
    )


def _message(line: Mapping[str, object]) -> str:
    return str(line.get("message", ""))


def _forecast(forecast: Forecast) -> str:
    headings = ("", "forecast", "measured", "ratio")
    table = html_page.table(headings, forecast.rows, numeric=(1, 2, 3), label="forecast")
    return section(
        "Forecast and outcome",
        table if forecast.rows else "",
        *(html_page.paragraph(sentence) for sentence in forecast.sentences),
    )


def _results(record: RunRecord) -> str:
    results = record.results
    if not results:
        return section(
            "Results",
            html_page.paragraph("No results.json yet: a run writes it when it finishes."),
        )
    stale = ""
    if record.state != FINISHED:
        stale = html_page.paragraph(
            f"results.json is of step {text_of('', results.get('steps'))}, but the metrics end at "
            f"step {record.last_step:,}: it was written at another end of the run."
        )
    rows = [(name, text_of(name, v)) for name, v in results.items() if not isinstance(v, list)]
    return section("Results", stale, html_page.table(("", ""), rows, label="results"))


def _settings(record: RunRecord, defaults: Mapping[str, str]) -> str:
    names = list(dict.fromkeys([*record.settings, *defaults]))
    texts = {name: record.settings.get(name, "not set") for name in names}
    usual = {name: defaults.get(name, "not set") for name in names}
    changed = [(n, texts[n] or '""', usual[n] or '""') for n in names if texts[n] != usual[n]]
    same = [(n, texts[n] or '""') for n in names if texts[n] == usual[n]]
    return section(
        "Settings",
        html_page.table(("setting", "value", "default"), changed)
        if changed
        else html_page.paragraph("All settings have their defaults."),
        html_page.folded(
            f"{len(same)} settings with their defaults", html_page.table(("setting", "value"), same)
        )
        if same
        else "",
    )


def _environment(record: RunRecord) -> str:
    starts = record.starts
    if not starts:
        return section("Environment", html_page.paragraph(f"Not recorded: {NO_METRICS}"))
    now = starts[-1]["start"]
    rows = [(name, text_of("", value)) for name, value in now.items()]
    table = html_page.table(("", ""), rows, label="environment")
    if len(starts) == 1:
        return section("Environment", table, html_page.paragraph("The run was not interrupted."))
    listed = [("1", f"{starts[0]['step']:,}", html_page.moment(number(starts[0].get("time"))), "")]
    for count, (before, after) in enumerate(itertools.pairwise(starts), 2):
        old, new = before["start"], after["start"]
        changes = [
            f"{name}: {old.get(name, 'none')} → {new.get(name, 'none')}"
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name)
        ]
        when = html_page.moment(number(after.get("time")))
        listed.append((str(count), f"{after['step']:,}", when, "; ".join(changes) or "nothing"))
    times = "once" if len(starts) == 2 else f"{len(starts) - 1} times"
    return section(
        "Environment",
        table,
        html_page.paragraph(
            f"The run was restarted {times}; the table above is of the last start."
        ),
        html_page.table(("start", "from step", "time", "changed since"), listed, numeric=(1,)),
    )

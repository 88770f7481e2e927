"""report.html: what a run did, in one file that any browser shows without a network."""

import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tf_lars import files
from tf_lars.tracking import html_page, run_pictures
from tf_lars.tracking.html_page import section, text_of
from tf_lars.tracking.run_pictures import Curve
from tf_lars.tracking.run_record import FINISHED, RunRecord, number

LISTED_WARNINGS = 50
_GIB = 2.0**30
_NO_METRICS = "metrics.jsonl has no such values: the run ended early, or is of an earlier version."


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
        _training(record),
        _throughput(record),
        _layers(record),
        _noise(record),
        _devices(record),
        _forecast(forecast),
        _results(record),
        _settings(record, defaults),
        _environment(record),
    )


def plot(
    record: RunRecord,
    caption: str,
    tags: Mapping[str, str],
    *,
    log: bool | None = None,
    percent: bool = False,
    from_zero: bool = False,
    scale: float = 1.0,
) -> str:
    """Returns a plot of metrics over the epochs with its caption; "" if none was recorded.

    Args:
      record: Record of the run.
      caption: Text above the plot.
      tags: Labels of the curves by their tags; "" for none.
      log: Whether the values' axis is logarithmic; None if they span more than a factor of 20.
      percent: Whether values are shares.
      from_zero: Whether the values' axis begins at 0.
      scale: Unit of the axis, by which values are divided.
    """
    curves: list[Curve] = []
    for tag, label in tags.items():
        series = record.series(tag)
        if series.finite.size:
            x = record.epochs_at(series.steps)
            curves.append(
                Curve(label, x, series.values / scale, len(curves), tag.startswith("val_"))
            )
    if not curves:
        return ""
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves])
    if log is None:
        log = bool(0 < 20 * values.min() < values.max())
    axis = "epoch" if record.has_epochs else "step"
    svg = run_pictures.curves(curves, axis, log=log, percent=percent, from_zero=from_zero)
    ends = ", ".join(
        f"{curve.label or 'the curve'} ends at " + (f"{last:.2%}" if percent else f"{last:.4g}")
        for curve in curves
        for last in curve.y[np.isfinite(curve.y)][-1:]
    )
    return html_page.picture(caption, f"{caption} by {axis}: {ends}.", svg)


def _plots(*drawn: str) -> str:
    return html_page.pictures([one for one in drawn if one])


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
    pairs.append(("warnings", str(len(record.warnings))))
    return (
        f"<header><h1>{html.escape(record.title)}</h1>"
        f'<p class="soft"><span class="pill {record.state}">{record.state}</span> {step}'
        f"{html.escape(when)} in {html.escape(record.folder)}</p>"
        f"{html_page.facts(pairs)}</header>"
    )


def _health(record: RunRecord) -> str:
    found = record.warnings
    if not found:
        reason = "No warnings." if record.lines else f"No warnings are known: {_NO_METRICS}"
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


def _training(record: RunRecord) -> str:
    plots = _plots(
        plot(record, "Loss", {"loss": "training", "val_loss": "validation"}),
        plot(
            record,
            "Top-1 accuracy",
            {"top1": "training", "val_top1": "validation"},
            log=False,
            percent=True,
        ),
        plot(
            record,
            "Top-5 accuracy",
            {"top5": "training", "val_top5": "validation"},
            log=False,
            percent=True,
        ),
        plot(record, "Learning rate", {"learning_rate": ""}, log=False, from_zero=True),
    )
    return section("Training", plots or html_page.paragraph(f"No curves. {_NO_METRICS}"))


def _throughput(record: RunRecord) -> str:
    at = "throughput/"
    rows = []
    for tag, name, kind in (
        ("images_per_second", "images/s", ""),
        ("images_per_second_per_device", "images/s per device", ""),
        ("mfu", "share of the devices' peak FLOP/s (MFU)", "mfu"),
        ("input_wait", "share of the step that waits for input", "share"),
        ("slowest_step_seconds", "seconds per step, slowest worker", ""),
        ("fastest_step_seconds", "seconds per step, fastest worker", ""),
    ):
        series = record.series(f"{at}{tag}").finite
        if series.size:
            values = (np.median(series), series.min(), series.max())
            rows.append((name, *(text_of(kind, float(value)) for value in values)))
    if not rows:
        return section("Throughput", html_page.paragraph(f"Not recorded. {_NO_METRICS}"))
    no_mfu = ""
    if not record.series(f"{at}mfu").finite.size:
        no_mfu = html_page.paragraph(
            "MFU is unknown: it needs devices whose peak FLOP/s the planner knows.", "soft"
        )
    return section(
        "Throughput",
        _plots(
            plot(
                record,
                "Images per second",
                {f"{at}images_per_second": ""},
                log=False,
                from_zero=True,
            ),
            plot(
                record,
                "Waiting for input, and MFU",
                {f"{at}input_wait": "waiting for input, share of the step", f"{at}mfu": "MFU"},
                log=False,
                from_zero=True,
                percent=True,
            ),
            plot(
                record,
                "Seconds per step",
                {
                    f"{at}slowest_step_seconds": "slowest worker",
                    f"{at}fastest_step_seconds": "fastest worker",
                },
                log=False,
                from_zero=True,
            ),
            html_page.table(
                ("", "median", "least", "most"), rows, numeric=(1, 2, 3), label="throughput"
            ),
        ),
        no_mfu,
    )


def _layers(record: RunRecord) -> str:
    maps, sentences = [], []
    for tag, name, meaning in (
        ("trust_ratio", "Trust ratio", "the factor of LARS on a layer's learning rate"),
        ("update_ratio", "Update ratio", "the norm of an update over that of its weights"),
    ):
        layers = record.layers(tag)
        if not layers.paths:
            continue
        rows, reason = run_pictures.chosen_rows(layers.paths, layers.values)
        x = record.epochs_at(layers.steps)
        axis = "epoch" if record.has_epochs else "step"
        values = layers.values[rows]
        usable = values[np.isfinite(values) & (values > 0)]
        span = f" from {usable.min():.3g} to {usable.max():.3g}" if usable.size else ""
        shown = f"{len(rows)} of {len(layers.paths)} variables"
        svg = run_pictures.heat_map([layers.paths[row] for row in rows], x, values, axis)
        alt = f"Heat map of {meaning}, {shown} by {axis},{span or ' without values'}."
        maps.append(html_page.picture(f"{name}: {meaning}", alt, svg))
        if len(rows) < len(layers.paths):
            sentences.append(f"The maps show {shown}: {reason}.")
    if not record.layers("trust_ratio").paths:
        optimizer = record.settings.get("optimizer", "unknown")
        sentences.append(
            "No trust ratios were recorded: the run ended before the first of them."
            if optimizer == "lars"
            else f"There are no trust ratios: the optimizer is {optimizer}, and only LARS has them."
        )
    norms = _plots(
        plot(
            record,
            "Norms",
            {"norms/gradient": "gradient", "norms/weights": "weights"},
            log=True,
        ),
        plot(
            record,
            "Norm of the update over that of the weights",
            {"norms/update_to_weight": ""},
            log=True,
        ),
    )
    if not maps:
        sentences.append("No maps of layers. " + _NO_METRICS)
    return section(
        "Layers",
        _plots(*maps),
        *(html_page.paragraph(sentence, "soft") for sentence in dict.fromkeys(sentences)),
        norms,
    )


def _noise(record: RunRecord) -> str:
    heading = "Gradient noise scale"
    scale, batch = record.series("noise/scale").finite, record.series("noise/batch").finite
    if not scale.size:
        reason = (
            "Not estimated: it needs a batch of at least two parts, on devices or as micro-batches."
        )
        if record.settings.get("noise_scale") == "False":
            reason = "Not estimated: it was switched off by --noise_scale=False."
        return section(heading, html_page.paragraph(reason))
    end = f"At the end, the noise scale is {scale[-1]:,.0f} examples."
    if batch.size and batch[-1] < scale[-1]:
        end += f" The batch of {batch[-1]:,.0f} is below it: a larger one would save steps."
    elif batch.size:
        end += f" The batch of {batch[-1]:,.0f} is above it: a larger one would save few steps."
    return section(
        heading,
        _plots(
            plot(
                record,
                "Noise scale and batch, in examples",
                {"noise/scale": "noise scale", "noise/batch": "batch in use"},
                log=True,
            ),
            plot(record, "AdaScale's gain", {"noise/adascale_gain": ""}, log=False),
        ),
        html_page.paragraph(end),
    )


def _devices(record: RunRecord) -> str:
    at = "devices/"
    plots = _plots(
        plot(
            record,
            "Memory of a device, in GiB",
            {f"{at}memory_peak_bytes": "peak", f"{at}memory_in_use_bytes": "in use"},
            log=False,
            from_zero=True,
            scale=_GIB,
        ),
        plot(
            record,
            "Utilisation",
            {f"{at}utilization": "devices", f"{at}host_cpu": "host CPU"},
            log=False,
            from_zero=True,
            percent=True,
        ),
        plot(
            record,
            "Power of a device, in watts",
            {f"{at}power_watts": ""},
            log=False,
            from_zero=True,
        ),
        plot(
            record,
            "Memory of the host, in GiB",
            {f"{at}host_memory_bytes": ""},
            log=False,
            from_zero=True,
            scale=_GIB,
        ),
    )
    return section("Devices", plots or html_page.paragraph(f"Not recorded. {_NO_METRICS}"))


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
            html_page.paragraph("There is no results.json: a run writes it when it finishes."),
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
        return section("Environment", html_page.paragraph(f"Not recorded. {_NO_METRICS}"))
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

"""The sections of report.html that draw metrics: curves, throughput, layers, noise and devices."""

from collections.abc import Mapping

import numpy as np

from tf_lars.tracking import html_page, run_pictures
from tf_lars.tracking.html_page import section, text_of
from tf_lars.tracking.run_pictures import Curve
from tf_lars.tracking.run_record import RunRecord

NO_METRICS = "metrics.jsonl has no such values: the run ended early, or is of an earlier version."
"""Reason for a section without contents."""
_GIB = 2.0**30


def training(record: RunRecord) -> str:
    """Returns the section with the curves of loss, accuracy and learning rate."""
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
    return section("Training", plots or html_page.paragraph(f"No curves: {NO_METRICS}"))


def throughput(record: RunRecord) -> str:
    """Returns the section about the speed of the run."""
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
        return section("Throughput", html_page.paragraph(f"Not recorded: {NO_METRICS}"))
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


def layers(record: RunRecord) -> str:
    """Returns the section with the maps of layers and the norms."""
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
    if not maps:
        sentences.append(f"No maps of layers: {NO_METRICS}")
    elif not record.layers("trust_ratio").paths:
        optimizer = record.settings.get("optimizer", "unknown")
        sentences.append(
            f"There are no trust ratios: the optimizer is {optimizer}, and only LARS has them."
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
    return section(
        "Layers",
        _plots(*maps),
        *(html_page.paragraph(sentence, "soft") for sentence in dict.fromkeys(sentences)),
        norms,
    )


def noise(record: RunRecord) -> str:
    """Returns the section about the gradient noise scale."""
    heading = "Gradient noise scale"
    scale, batch = record.series("noise/scale").finite, record.series("noise/batch").finite
    if not scale.size:
        reason = (
            "Not estimated: it needs a batch of at least two parts, on devices or as micro-batches."
        )
        if record.settings.get("noise_scale") == "False":
            reason = "Not estimated: it was switched off by --noise_scale=False."
        return section(heading, html_page.paragraph(reason))
    end = f"The last value is {scale[-1]:,.0f} examples"
    if batch.size:
        end += f", beside a batch of {batch[-1]:,.0f}"
    end += (
        ". It is an average over about a hundred steps, in which large gradients weigh most: in a "
        "short run, it lags behind."
    )
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


def devices(record: RunRecord) -> str:
    """Returns the section about memory, utilisation and power."""
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
    return section("Devices", plots or html_page.paragraph(f"Not recorded: {NO_METRICS}"))


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

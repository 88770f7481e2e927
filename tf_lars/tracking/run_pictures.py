"""Pictures for the HTML pages of runs: curves and heat maps as SVG.

A picture takes the colours of the page that shows it, light or dark, and stays small however long
the run was: a curve has at most `MOST_POINTS` points, and a heat map `MOST_COLUMNS` columns.
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_POINTS = 250
MOST_COLUMNS = 200
MOST_ROWS = 60
"""Largest number of variables in a heat map."""

_PNG_DPI = 128

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#06b6d4", "#ca8a04", "#ec4899")
"""Colours of curves, in order, legible on white and on black."""

# matplotlib writes these colours into the SVG, where they are replaced by variables of CSS.
_INK, _GRID = "#2a2b2c", "#d4d5d6"
_STYLE = (
    "<style>:root{--ink:#3f4754;--grid:#e3e6ea}"
    "@media (prefers-color-scheme:dark){:root{--ink:#b6bdc8;--grid:#333a45}}</style>"
)
_WIDTH = 4.7
_FONTS = re.compile(r"'DejaVu Sans'[^;\"]*")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve of a plot.

    Attributes:
      label: Name in the legend; "" for none.
      x: Places, `[n]`.
      y: Values, `[n]`; NaN interrupts the curve.
      colour: Index into `COLOURS`.
      dashed: Whether the line is dashed.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    dashed: bool = False


def curves(
    plotted: Sequence[Curve],
    x_label: str,
    *,
    log: bool = False,
    percent: bool = False,
    from_zero: bool = False,
) -> str:
    """Returns a plot of curves as SVG.

    Args:
      plotted: The curves. Of a long one, the mean and the range of neighbouring values are drawn.
      x_label: Label of the horizontal axis.
      log: Whether the vertical axis is logarithmic.
      percent: Whether values are shares, shown in percent.
      from_zero: Whether the vertical axis begins at 0, so that small changes look small; without
        effect on a logarithmic one.
    """
    from matplotlib.ticker import LogLocator

    figure, (axes,) = _figure(2.75)
    for curve in plotted:
        colour = COLOURS[curve.colour % len(COLOURS)]
        x, mean, low, high = _thinned(curve.x, curve.y)
        if low is not None:
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        marker = "o" if len(x) <= 40 else ""
        line = "--" if curve.dashed else "-"
        label = _plain(curve.label) if curve.label else "_none"
        axes.plot(x, mean, color=colour, ls=line, lw=1.6, marker=marker, ms=3.2, label=label)
    positive = [v for curve in plotted for v in curve.y[np.isfinite(curve.y)] if v > 0]
    span = max(positive) / min(positive) if log and positive else 1.0
    if span > 3:  # on a shorter logarithmic axis there are too few ticks
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_minor_formatter(_decimal if span < 100 else "")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5) if span < 10 else (2, 5)))
    axes.yaxis.set_major_formatter(_percent if percent else _decimal)
    axes.xaxis.set_major_formatter(_decimal)
    axes.set_xlabel(x_label)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    if from_zero and span <= 3:
        axes.set_ylim(0, 1.08 * max(positive, default=1.0))
    if any(curve.label for curve in plotted):
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=_INK, loc="lower left", ncols=4,
            bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    return _svg(figure)


def chosen_rows(paths: Sequence[str], values: np.ndarray) -> tuple[list[int], str]:
    """Returns which variables to show in a heat map, at most `MOST_ROWS`, and the reason in words.

    Biases and parameters of normalisation are left out first, then those that change least.
    """
    rows, reason = list(range(len(paths))), ""
    if len(rows) > MOST_ROWS:
        minor = ("bias", "gamma", "beta")
        rows = [row for row in rows if paths[row].rpartition("/")[2] not in minor] or rows
        reason = "without biases and normalisation" if len(rows) < len(paths) else ""
    if len(rows) > MOST_ROWS:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(values > 0, np.log(values), np.nan)
        spread = [
            float(np.ptp(finite)) if (finite := row[np.isfinite(row)]).size else 0.0 for row in logs
        ]
        rows = sorted(sorted(rows, key=lambda row: -spread[row])[:MOST_ROWS])
        reason = ", ".join(filter(None, [reason, "those that vary most"]))
    return rows, reason


def heat_map(paths: Sequence[str], x: np.ndarray, values: np.ndarray, x_label: str) -> str:
    """Returns a map of variables against time as SVG, with logarithmic colours.

    Args:
      paths: Paths of the variables, `[rows]`; the first is at the top.
      x: Places of the columns, increasing, `[n]`.
      values: Values, `[rows, n]`. Those that are not positive are grey.
      x_label: Label of the horizontal axis.
    """
    return _svg(_heat_map(paths, x, values, x_label))


def heat_map_png(
    paths: Sequence[str], x: np.ndarray, values: np.ndarray, x_label: str
) -> tuple[int, int, bytes]:
    """Returns the width and height in pixels, and the PNG, of the picture of `heat_map`."""
    figure = _heat_map(paths, x, values, x_label)
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor="white", dpi=_PNG_DPI)
    width, height = (round(_PNG_DPI * inches) for inches in figure.get_size_inches())
    return width, height, content.getvalue()


def _heat_map(paths: Sequence[str], x: np.ndarray, values: np.ndarray, x_label: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_COLUMNS)).round().astype(int))
    x, values = x[kept], values[:, kept]
    shown = np.ma.masked_where(~(np.isfinite(values) & (values > 0)), values)
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (1.0, 1.0)
    if high <= 1.001 * low:  # one colour; a scale of no length cannot be drawn
        low, high = low / 2, high * 2
    height = 0.145 * len(paths)
    figure, (scale, axes) = _figure(0.9 + height, (0.08, height))
    mesh = axes.pcolormesh(
        _edges(x),
        np.arange(len(paths) + 1),
        shown,
        cmap=colormaps["viridis"].with_extremes(bad="#8a8f98"),
        norm=LogNorm(low, high),
        rasterized=True,
    )
    axes.set_facecolor("#8a8f98")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(paths)) + 0.5, [_plain(_short(path)) for path in paths])
    axes.tick_params(axis="y", labelsize=7, length=0, pad=2)
    axes.xaxis.set_major_formatter(_decimal)
    axes.set_xlabel(x_label)
    bar = figure.colorbar(mesh, cax=scale, orientation="horizontal")
    bar.ax.xaxis.tick_top()
    bar.ax.xaxis.set_major_formatter(_decimal)
    bar.ax.xaxis.set_major_locator(LogLocator(numticks=6, subs=(1,) if high > 30 * low else (1, 3)))
    bar.ax.minorticks_off()
    bar.ax.tick_params(axis="x", labelsize=8, color=_INK, labelcolor=_INK)
    bar.outline.set_visible(False)
    return figure


def _figure(height: float, rows: Sequence[float] = (1,)) -> tuple[Any, list[Any]]:
    """Returns a figure of a height in inches, and its axes from top to bottom."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=96, layout="constrained")
    FigureCanvasSVG(figure)
    found = figure.subplots(len(rows), squeeze=False, height_ratios=rows)[:, 0]
    for axes in found:
        axes.set_facecolor("none")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_GRID)
        axes.tick_params(which="both", labelcolor=_INK, labelsize=9, color=_GRID)
        axes.xaxis.label.set(color=_INK, fontsize=9)
    return figure, list(found)


def _svg(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    # Text as text is smaller, and in the font of the page. Equal pictures have equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tf_lars"}):
        figure.savefig(text, format="svg", transparent=True, dpi=192, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' style="[^"]*"', lambda style: _FONTS.sub(_FONT, style[0]), svg)
    # A tenth of a point is a fraction of a pixel.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    return svg.replace(">", f">{_STYLE}", 1)


def _thinned(
    x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns at most `MOST_POINTS` places with the mean, least and largest value around each."""
    if len(x) <= MOST_POINTS:
        return x, y, None, None
    rows = []
    width = -(-len(x) // MOST_POINTS)  # equal ones: a narrower one would look noisier
    for first in range(0, len(x), width):
        part = slice(first, first + width)
        finite = y[part][np.isfinite(y[part])]
        row = [finite.mean(), finite.min(), finite.max()] if finite.size else [np.nan] * 3
        rows.append([x[part].mean(), *row])
    thinned, mean, low, high = np.array(rows).T
    return thinned, mean, low, high


def _edges(x: np.ndarray) -> np.ndarray:
    """Returns the borders of columns around their places."""
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[1:] + x[:-1]) / 2
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])


def _decimal(value: float, _: object = None) -> str:
    """Returns a short label of a tick."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (suffix != "k" and abs(value) >= size):
            return f"{value / size:.4g} {suffix}"
    if 0 < abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.4g} %"


def _short(path: str, most: int = 34) -> str:
    return path if len(path) <= most else f"…{path[1 - most :]}"


def _plain(text: str) -> str:
    """Returns a text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")

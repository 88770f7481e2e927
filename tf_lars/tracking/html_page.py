"""Pieces of self-contained HTML pages: style, sections, tables and pictures.

The pages load nothing and run no script, and their policy (Content-Security-Policy) has browsers
refuse both. All texts are escaped here.
"""

import base64
import datetime
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --text: #1d232c; --soft: #5d6673;
  --line: #e3e6ea; --accent: #2563eb; --good: #15803d; --bad: #b91c1c; --warn: #a16207; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --card: #1c2027; --text: #e6e9ee;
  --soft: #9aa3b0; --line: #2d333d; --accent: #7aa5ff; --good: #4ade80; --bad: #f87171;
  --warn: #facc15; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 14px; margin: 20px 0 8px; }
p { margin: 0 0 12px; }
p:last-child { margin-bottom: 0; }
.soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 18px; }
.pill { display: inline-block; padding: 1px 10px; border-radius: 99px; font-size: 13px;
  border: 1px solid currentColor; }
.finished { color: var(--good); } .diverged { color: var(--bad); }
.unfinished { color: var(--warn); }
.facts { display: grid; gap: 12px; margin: 18px 0 0;
  grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.facts > div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.pictures { display: grid; gap: 22px 26px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
.pictures + *, .scroll + *, p + .pictures { margin-top: 16px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 4px; }
img { display: block; width: 100%; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 22px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; min-width: 5.5em; max-width: 46em; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
tbody th { font-weight: 500; color: var(--soft); }
.name { overflow-wrap: normal; }
.number { text-align: right; white-space: nowrap; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 10px; }
.legend { list-style: none; padding: 0; margin: 10px 0 0; }
.legend li { margin-bottom: 6px; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; }
@media (max-width: 640px) { main { padding: 18px 12px 32px; } h1 { font-size: 21px; }
  section { padding: 16px 14px; } .facts { grid-template-columns: 1fr 1fr; gap: 8px; }
  .facts dd { font-size: 18px; } th, td { padding-right: 14px; }
  td:not(.number) { min-width: 10em; }
  .sticky th:first-child { position: sticky; left: 0; background: var(--card); } }
"""


def page(title: str, *body: str) -> str:
    """Returns a page.

    Args:
      title: Its title, as text.
      *body: Its contents, as HTML.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="generator" content="tf-lars">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{chr(10).join(body)}
</main>
</body>
</html>
"""


def section(heading: str, *parts: str) -> str:
    """Returns a section of the page with a heading; empty parts are left out."""
    name = "-".join(heading.lower().split())
    contents = "\n".join(part for part in parts if part)
    return (
        f'<section id="{html.escape(name)}">\n<h2>{html.escape(heading)}</h2>\n{contents}\n'
        "</section>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph; `kind` is a class of the style."""
    kind = f' class="{html.escape(kind)}"' if kind else ""
    return f"<p{kind}>{html.escape(text)}</p>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Returns names and values as a row of cards."""
    cards = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs
    )
    return f'<dl class="facts">{"".join(cards)}</dl>'


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numeric: Sequence[int] = (),
    label: str = "",
) -> str:
    """Returns a table that scrolls in its own frame where the page is too narrow.

    Args:
      headings: Names of the columns; the first column names the rows.
      rows: Cells, as text.
      numeric: Columns of numbers, which are aligned to the right.
      label: Description of the table for screen readers.
    """

    def cells(texts: Sequence[str], scope: str) -> str:
        found = []
        for column, text in enumerate(texts):
            kind = ' class="number"' if column in numeric else ""
            kind = ' class="name"' if column == 0 else kind
            tag, of = ("th", f' scope="{scope}"') if scope == "col" or column == 0 else ("td", "")
            found.append(f"<{tag}{of}{kind}>{html.escape(text)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    head = f"<thead>{cells(headings, 'col')}</thead>" if any(headings) else ""
    body = "\n".join(cells(row, "row") for row in rows)
    name = html.escape(label or ", ".join(headings))
    return (
        f'<div class="scroll sticky" tabindex="0" role="region" aria-label="{name}">'
        f"<table>{head}<tbody>\n{body}\n</tbody></table></div>"
    )


def picture(caption: str, alt: str, svg: str) -> str:
    """Returns a picture with a caption.

    Args:
      caption: Text above the picture.
      alt: Description for those who do not see it.
      svg: The picture.
    """
    data = base64.b64encode(svg.encode()).decode()
    return (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>"
        f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


def pictures(drawn: Sequence[str]) -> str:
    """Returns pictures side by side, or one below the other where the page is narrow."""
    return f'<div class="pictures">\n{chr(10).join(drawn)}\n</div>' if drawn else ""


def folded(summary: str, *parts: str) -> str:
    """Returns contents that are shown on a click on the summary."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def text_of(name: str, value: Any) -> str:
    """Returns a value of results.json or of a metric as text, by the meaning of its name."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if abs(value) >= 1e18:
        return f"{value:.4g}" if isinstance(value, float) else f"{str(value)[:18]}..."
    if name.rpartition("_")[2] in ("top1", "top5", "mfu", "share"):
        return f"{value:.2%}"
    if name == "seconds":
        return duration(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Returns a time in words, such as "1 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(seconds: float) -> str:
    """Returns a point in time, in seconds since 1970, as text in UTC; "" if it is none."""
    try:
        when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return ""
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")

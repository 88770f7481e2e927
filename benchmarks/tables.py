"""Tables of measurements, in files and pages, and a description of the machine."""

import csv
import os
import pathlib
import platform
import re


def write(rows, path):
    """Writes a table, given as a list of dictionaries with the same keys, as CSV."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def show(rows):
    """Prints a table in aligned columns."""
    widths = {k: max(len(k), *(len(str(row[k])) for row in rows)) for k in rows[0]}
    for row in [{k: k for k in rows[0]}, *rows]:
        print("  ".join(str(row[k]).ljust(width) for k, width in widths.items()).rstrip())


def markdown(header, rows):
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def fill(text, contents):
    """Returns a page with its tables inserted.

    Raises:
      ValueError: The places in the page do not match the tables.
    """
    places = re.findall(r"<!-- table: (.+?) -->", text)
    if sorted(places) != sorted(contents):
        raise ValueError(
            f"The page must have places for {list(contents)}. Received: places for {places}."
        )
    return re.sub(
        r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{contents[match[2]]}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def machine():
    """Returns a one-line description of the machine: architecture, processor, cores and system."""
    return f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {platform.platform()}"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")

"""Tables of measurements, and a description of the machine."""

import csv
import os
import pathlib
import platform


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


def machine():
    """Returns a one-line description of the machine: architecture, processor, cores and system."""
    return f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {platform.platform()}"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")

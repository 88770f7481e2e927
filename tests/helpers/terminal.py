"""A pseudo-terminal on which a program runs, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from tests.helpers.paths import ROOT

SECONDS = 120
_CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


def run(code, columns, rows=24, environment=()):
    """Runs Python code on a terminal of a given size; returns what it has written to it.

    Raises:
        AssertionError: If the program fails.
    """
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {"TERM": "xterm-256color", "PYTHONUTF8": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    variables |= dict(environment)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=variables,
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
    )
    os.close(its)
    written, deadline = b"", time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([own], [], [], 1.0)[0]:
                continue
            try:
                chunk = os.read(own, 1 << 16)
            except OSError:  # Linux's end of file, once the program has ended
                break
            if not chunk:
                break
            written += chunk
        assert process.wait(timeout=10) == 0, written[-2000:]
    finally:
        process.kill()
        process.wait()
        os.close(own)
    return written.decode()


def screen(written, columns):
    """Returns the lines of an endless screen after some output; lines wrap at the last column."""
    cells, row, column, position = [[]], 0, 0, 0
    while position < len(written):
        control = _CONTROL.match(written, position)
        if control:
            position = control.end()
            count = int(control[1]) if control[1].isdigit() else 1
            if control[2] == "A":
                row = max(0, row - count)
            elif control[2] == "K":
                cells[row] = [] if control[1] == "2" else cells[row][:column]
            else:
                assert control[2] in "mhl", control[0]  # colours and the cursor's visibility
            continue
        character = written[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        else:
            assert character.isprintable(), repr(character)
            if column == columns:
                row, column = row + 1, 0
            cells += [[] for _ in range(row + 1 - len(cells))]
            cells[row] += [" "] * (column + 1 - len(cells[row]))
            cells[row][column] = character
            column += 1
        cells += [[] for _ in range(row + 1 - len(cells))]
    return ["".join(line).rstrip() for line in cells]

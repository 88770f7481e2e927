"""Names with other letters than English ones, in any locale."""

import os
import subprocess

import pytest

from tests.helpers import programs

NAME = "läufe_跑"


def _plan(*arguments, **environment):
    return subprocess.run(
        [os.fsencode(one) for one in programs.command("launch.plan", *arguments)],
        cwd=programs.ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        timeout=programs.SECONDS,
    )


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, NAME.encode()),
        ({"LC_ALL": "C.UTF-8"}, NAME.encode()),
        ({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}, rb"l\xe4ufe_\u8dd1"),
    ],
)
def test_a_file_is_written_and_named(environment, printed, tmp_path):
    (tmp_path / NAME).mkdir()
    picture = tmp_path / NAME / "plan.png"
    done = _plan("--accelerator=A30", "--devices=8", f"--picture={picture}", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert picture.exists()
    assert printed in done.stdout


def test_what_is_not_utf8_is_refused_in_one_sentence():
    done = _plan(os.fsdecode(b"--picture=l\xe4ufe.png"), LC_ALL="POSIX", PYTHONUTF8="0")
    assert done.returncode == 2
    assert done.stderr == (
        b"error: Arguments must be encoded in UTF-8. Received: '--picture=l\\udce4ufe.png'.\n"
    )

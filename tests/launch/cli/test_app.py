"""How the programs of launch/ end."""

import subprocess
import sys
import textwrap

import pytest

from tests.helpers.paths import ROOT


def _program(tmp_path, body):
    path = tmp_path / "program.py"
    path.write_text("from launch.cli import app\n" + textwrap.dedent(body) + "\napp.run(main)\n")
    return [sys.executable, str(path)]


def _run(tmp_path, body):
    return subprocess.run(
        _program(tmp_path, body),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("ending", "code", "last_line"),
    [
        ("return 42", 42, ""),
        ("return None", 0, ""),
        ("raise SystemExit('told')", 1, "told"),
        ("raise InputError('Told.')", 2, "error: Told."),
        ("raise RuntimeError('a fault')", 1, "RuntimeError: a fault"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_every_ending_has_its_code_and_loses_no_output(ending, code, last_line, tmp_path):
    done = _run(
        tmp_path,
        f"""
        import atexit, threading
        from tf_lars.errors import InputError
        def main():
            atexit.register(print, "at exit")
            threading.Thread(target=print, args=("by a thread",)).start()
            {ending}
        """,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == "by a thread\nat exit\n"
    assert (done.stderr.splitlines() or [""])[-1] == last_line


def test_threads_at_work_do_not_keep_a_program_from_ending(tmp_path):
    # As TensorFlow's iterators do, which wait for the threads that read examples for them.
    done = _run(
        tmp_path,
        """
        import threading, time
        from tf_lars.errors import InputError
        class Iterator:
            def __init__(self):
                self.answered = threading.Event()
                threading.Thread(target=self.read, args=(self.answered,), daemon=True).start()
            @staticmethod
            def read(answered):
                time.sleep(0.5)  # until the program ends
                answered.set()
            def __del__(self):
                self.answered.wait()
        def main():
            batches = Iterator()
            raise InputError("Found while reading.")
        """,
    )
    assert (done.returncode, done.stderr) == (2, "error: Found while reading.\n")


def test_a_reader_that_has_seen_enough_ends_a_program_quietly(tmp_path):
    program = _program(
        tmp_path,
        """
        def main():
            for line in range(100_000):
                print(line)
        """,
    )
    with subprocess.Popen(
        program, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=-1
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=120) == 141


def test_the_home_folder_is_meant_by_a_tilde_at_the_start_of_any_path(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import dataclasses
            from launch.cli import app, flags
            from tf_lars.setting import setting
            @dataclasses.dataclass(frozen=True)
            class Settings:
                folder: str = setting("A folder.", "")
                files: tuple[str, ...] | None = setting("Files.", None)
                volume: tuple[str, ...] = setting("Volumes.", (), repeatable=True)
            def main():
                print(Settings(**flags.values(Settings)))
            flags.define(Settings)
            app.run(main)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, program, "--folder=~/a", "--files=~/b,~/c,d~", "--volume=~", "--volume=x"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "HOME": "/home/me"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = (
        "folder='/home/me/a', files=('/home/me/b', '/home/me/c', 'd~'), volume=('/home/me', 'x')"
    )
    assert done.stdout == f"Settings({expected})\n", done.stderr

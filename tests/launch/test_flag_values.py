"""Every program of launch/ refuses wrong values of its flags in one sentence, before it works."""

import ast
import json
import os
import struct
import subprocess
import sys

import pytest

from tests.helpers import flag_sweep, programs
from tests.helpers.paths import ROOT
from tf_lars.data.records.dataset_info import DatasetInfo, ShardInfo, SplitInfo
from tf_lars.data.records.tfrecord import masked_crc32c

SECONDS = 60
"""Time limit of a program that has nothing to do but refuse."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Returns a data set of a few empty records, which nothing here decodes."""
    folder = tmp_path_factory.mktemp("empty")
    length = struct.pack("<Q", 0)
    record = length + struct.pack("<I", masked_crc32c(length)) + bytes(4)
    splits = {}
    for split in ("train", "validation"):
        name = f"{split}-00000-of-00001"
        (folder / name).write_bytes(1024 * record)
        shard = ShardInfo(name, num_examples=1024, num_bytes=1024 * len(record), sha256="0" * 64)
        splits[split] = SplitInfo((shard,))
    DatasetInfo("empty", ("a", "b"), ("a", "b"), splits).save(folder)
    return str(folder)


def _sweep(data_dir, folder, seed, count):
    """Returns what `tests.helpers.flag_sweep` has found out."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.flag_sweep", data_dir, str(seed), str(count)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=programs.SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def sweep(data_dir, tmp_path_factory):
    return _sweep(data_dir, tmp_path_factory.mktemp("sweep"), seed=0, count=60)


def _is_one_sentence(code, printed):
    return code == 2 and printed.startswith("error: ") and len(printed.splitlines()) == 1


def test_a_value_outside_the_table_is_refused_with_the_name_of_its_flag(sweep):
    cases = [case for case in sweep["outcomes"] if case[4]]
    assert len(cases) > 20 * len(flag_sweep.PROGRAMS)
    for program, _, name, text, _, code, printed in cases:
        assert _is_one_sentence(code, printed), (program, name, text, code, printed)
        assert name in printed, (program, name, text, printed)


def test_any_other_odd_value_is_refused_or_does_no_harm(sweep):
    for program, _, name, text, excluded, code, printed in sweep["outcomes"]:
        accepted = code in (0, None) or flag_sweep.NEEDS_TENSORFLOW in printed
        assert excluded or accepted or _is_one_sentence(code, printed), (program, name, text)


def test_every_number_has_limits(sweep):
    # A number that no run can need would be found out late: at the end, or when memory is full.
    assert sweep["unlimited"] == {program: [] for program in flag_sweep.PROGRAMS}


def test_flags_are_defined_by_tables_only():
    assert {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__"} == set(
        flag_sweep.PROGRAMS
    )
    for path in sorted((ROOT / "launch").rglob("*.py")):
        if path.name == "flags.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not getattr(node, "attr", "").startswith("DEFINE"), path


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        ("local", ["--epochs=1000000000", "--dry_run"], "--epochs must be from 1 to 1,000,000."),
        ("local", ["--num_workers=100000", "--dry_run"], "--num_workers must be from 1 to 256."),
        ("local", ["--image_size_schedule=0:1000000000"], "and sizes from 1 to 8,192"),
        ("local", ["--batch_size_schedule=0:256,4:0"], "and batches from 1 to 10,000,000"),
        ("local", ["--batch_schedule_rate=linear"], "Received: 'linear' without a schedule."),
        ("measure_input", ["--global_batch_size=10000000"], "fit into the memory"),
        ("plan", ["--accelerator=A30", "--devices=8", "--picture={folder}"], "a .png file in an"),
    ],
)
def test_absurd_sizes_and_folders_end_a_real_program(program, flags, message, data_dir, tmp_path):
    data = [] if program == "plan" else [f"--data_dir={data_dir}"]
    data += [f"--model_dir={tmp_path}"] if program == "local" else []
    flags = [flag.format(folder=tmp_path) for flag in flags]
    done = programs.run(f"launch.{program}", *data, *flags)
    assert _is_one_sentence(done.returncode, done.stderr), done.stderr
    assert message in done.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("program", flag_sweep.PROGRAMS)
def test_twenty_wrong_flags_end_the_real_program(program, data_dir, tmp_path):
    cases = _sweep(data_dir, tmp_path, seed=1, count=20)["outcomes"]
    for _, given, name, text, excluded, _, _ in (case for case in cases if case[0] == program):
        if not excluded:
            continue
        done = subprocess.run(
            programs.command(f"launch.{program}", *given, f"--{name}={text}"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert _is_one_sentence(done.returncode, done.stderr), (name, text, done.stderr)

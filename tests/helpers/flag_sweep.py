"""Runs programs of launch/ with wrong flags, in one process and without TensorFlow.

python -m tests.helpers.flag_sweep DATA_DIR SEED COUNT > sweep.json

For each program, COUNT flags are drawn from the tables of settings that define its flags. Most are
given a value that their rule or type excludes; others, such as paths, any odd value. A program that
accepts its flags ends where it imports TensorFlow. `tests.launch.test_flag_values` judges.
"""

import contextlib
import importlib.abc
import io
import json
import os
import random
import runpy
import signal
import sys
import types
import typing

from absl import flags as absl_flags

from launch.cli import app, flags
from tf_lars import setting as table

PROGRAMS = {
    "compare": ["{run}", "{run}"],
    "compile_for": ["--target=h100_sxm:8", "--export_only={new}"],
    "critical_batch": ["--model_dir={run}"],
    "evaluate": ["--model_dir={run}"],
    "export": ["--model_dir={run}", "--output={new}"],
    "gpu_cluster": ["{data}", "--dry_run", "--worker_hosts=a:1,b:1", "--task_index=0"],
    "large_batch_study": ["--dry_run"],
    "local": ["{data}", "--dry_run"],
    "measure_input": ["{data}"],
    "plan": ["--accelerator=A30", "--devices=8"],
    "prepare_imagenet": ["--input_dir={folder}", "--output_dir={new}"],
    "ray": ["{data}", "--dry_run"],
    "render_kubernetes": ["--nodes=4", "--image=x", "--volume=/r=pvc:r", "--data_dir=/r/d"]
    + ["--model_dir=/r/m"],
    "show_input": ["{data}", "--output=sheet.png"],
    "tpu": ["{data}", "--dry_run"],
    "tpu_server": [],
    "worker": ["{data}"],
}
"""Flags with which each program would begin its work, by its name."""
NEEDS_TENSORFLOW = "needs TensorFlow"
_NO_NUMBERS = ("abc", "", "nan", "1,000", "--", "0x", "8 8")
_NUMBERS = ("nan", "inf", "-inf", "-1", "-0.5", "0", "1e308", "-1e308", str(10**11), str(10**18))
_NUMBERS += (str(-(10**18)), "1" + "0" * 400)


class _WithoutTensorFlow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("tensorflow", "keras"):
            raise RuntimeError(NEEDS_TENSORFLOW)


class Case(typing.NamedTuple):
    """A wrong flag: its name and text, and whether its table excludes the value."""

    name: str
    text: str
    is_excluded: bool


def run(program, arguments):
    """Runs a program's main block; returns its exit code, or the exception, and its output."""
    own = set(absl_flags.FLAGS)
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [f"launch/{program}.py", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(f"launch.{program}", run_name="__main__", alter_sys=True)
        code = None
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
        for name in set(absl_flags.FLAGS) - own:
            delattr(absl_flags.FLAGS, name)
        absl_flags.FLAGS.unparse_flags()
    return code, out.getvalue(), err.getvalue()


def tables(program):
    """Returns pairs (dataclass, names of its settings) of a program's flags."""
    found, define = [], flags.define

    def record(cls, names=None, **more):
        found.append((cls, list(names or table.settings_of(cls))))
        define(cls, names, **more)

    flags.define = record
    try:
        run(program, ["--help"])
    finally:
        flags.define = define
    return found


def draw(program_tables, generator, places):
    """Returns a `Case` for one of a program's flags."""
    cls, names = generator.choice(program_tables)
    name = generator.choice(names)
    kinds = [kind for kind in table.kinds(cls)[name] if kind is not types.NoneType]
    rule = table.settings_of(cls)[name].rule
    entry = next(iter(typing.get_args(kinds[0])), kinds[0])
    if entry is bool:
        return Case(name, generator.choice(["maybe", "2", "None"]), True)
    if entry is str or len(kinds) > 1:
        texts = [*_NUMBERS, *_NO_NUMBERS, *places]
    else:
        texts = [*_NUMBERS, *_NO_NUMBERS]
    generator.shuffle(texts)
    for text in texts:
        if _is_excluded(text, kinds, rule):
            return Case(name, text, True)
    return Case(name, texts[0], False)


def _is_excluded(text, kinds, rule):
    try:
        value = table.parse(text, kinds)
    except ValueError:
        return True
    entries = value if isinstance(value, tuple) else (value,)
    return rule is not None and not all(map(rule.holds, entries))


def unlimited(program_tables):
    """Returns the names of numeric settings whose rule does not exclude every absurd number."""
    found = set()
    for cls, names in program_tables:
        for name in names:
            kinds = [*table.kinds(cls)[name]]
            kinds += [kind for one in kinds for kind in typing.get_args(one)]
            absurd = [10**18, -(10**18)] if int in kinds else []
            absurd += [1e308, -1e308, float("inf"), float("nan")] if float in kinds else []
            rule = table.settings_of(cls)[name].rule
            if absurd and (rule is None or any(map(rule.holds, absurd))):
                found.add(name)
    return sorted(found)


def main(data_dir, seed, count):
    """Prints JSON: "unlimited" by program, and "outcomes", a list of

    [program, base flags, name, text, whether excluded, exit code, error output].
    """
    generator = random.Random(int(seed))
    os.mkdir("folder")
    os.mkdir("run")
    with open("file", "w", encoding="utf-8") as file:
        file.write("text")
    with open("run/flags.txt", "w", encoding="utf-8") as file:
        file.write(f"--data_dir={data_dir}\n--model_dir=run\n")
    sys.meta_path.insert(0, _WithoutTensorFlow())
    signal.signal = lambda *_: None
    app._end = sys.exit
    outcomes, without_limit = [], {}
    for program, arguments in PROGRAMS.items():
        of_program = tables(program)
        without_limit[program] = unlimited(of_program)
        given = [
            argument.format(
                data=f"--data_dir={data_dir}", run="run", folder="folder", new=f"new_{program}"
            )
            for argument in arguments
        ]
        given += ["--model_dir=run"] if "{data}" in arguments and "input" not in program else []
        for _ in range(int(count)):
            case = draw(of_program, generator, ["folder", "file", "missing/file", "/"])
            code, _, err = run(program, [*given, f"--{case.name}={case.text}"])
            outcomes.append([program, given, *case, code, err])
    json.dump({"unlimited": without_limit, "outcomes": outcomes}, sys.__stdout__)


if __name__ == "__main__":
    main(*sys.argv[1:])

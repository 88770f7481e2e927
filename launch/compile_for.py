"""Compiles the training step for GPUs or TPUs that are not there: does it fit, what does it cost.

python -m launch.compile_for --target=h100_sxm:8 --model=resnet50 --per_replica_batch_size=128
python -m launch.compile_for --target=h100_sxm:8,v5e:2x2 --flagfile=RECIPE --sweep=64,128,256

Takes the flags of a training run, and compiles the step that it would take. TensorFlow exports the
step; XLA's compilers for GPUs and TPUs, in the environment of `make setup-compile`, compile it.
"""

import dataclasses
import os
import subprocess
import tempfile
import time

from launch.cli import app, flags, ramp_flag, recipe_flag
from launch.run import replica_step
from launch.run.settings import TrainingSettings
from tf_lars import files
from tf_lars.data import synthetic_data
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_DONE, InputError
from tf_lars.planner import compiled_steps
from tf_lars.planner.compiled_steps import CompiledStep
from tf_lars.setting import above, batch_size, check, picture, setting
from tf_lars.xla import compiled_report, exported_step, targets
from tf_lars.xla.targets import Target

_GROUP = "Compilation"
_PYTHON = os.path.join(".venv-compile", "bin", "python")
_SECONDS_BETWEEN_LINES = 30


@dataclasses.dataclass(frozen=True)
class CompileSettings:
    """Settings of a compilation; each field is the flag of its name.

    Raises:
      InputError: A setting is out of range, or two contradict each other.
    """

    target: tuple[str, ...] = setting(
        "Devices to compile for, such as h100_sxm:8 (GPUs) or v5e:2x2 (TPU chips); --list shows "
        "all.",
        (),
        group=_GROUP,
    )
    list: bool = setting("Show the known targets, and compile nothing.", False, group=_GROUP)
    per_replica_batch_size: int | None = setting(
        "Images per device, in the place of --global_batch_size.",
        None,
        rule=batch_size(),
        group=_GROUP,
    )
    sweep: tuple[int, ...] | None = setting(
        "Several images per device, such as 64,128,256, to find the largest that fits.",
        None,
        rule=batch_size(),
        group=_GROUP,
    )
    output: str = setting(
        "File of results, to which these are added: JSON, or CSV if its name ends in .csv.",
        "compiled.json",
        group=_GROUP,
    )
    picture: str = setting(
        "File for the chart of memory over the batch, for several batches; empty for none.",
        "compiled.png",
        rule=picture(),
        group=_GROUP,
    )
    export_only: str | None = setting(
        "Write the exported step to this file, and compile nothing.", None, group=_GROUP
    )
    compile_only: str | None = setting(
        "Compile the step in this file, written with --export_only; needs no TensorFlow.",
        None,
        group=_GROUP,
    )
    compile_python: str = setting(
        "Python of the environment with JAX, made by `make setup-compile`.", _PYTHON, group=_GROUP
    )
    timeout_minutes: float = setting(
        "Minutes after which a compilation is given up.", 60.0, rule=above(0, 10_000), group=_GROUP
    )

    def __post_init__(self):
        check(self)
        if self.per_replica_batch_size is not None and self.sweep:
            raise InputError(
                "The batch per device is given once. Received: --per_replica_batch_size="
                f"{self.per_replica_batch_size} and --sweep. Leave out one of them."
            )
        if not self.target and not self.list:
            raise InputError(
                "--target must name the devices to compile for. Received: none. Write "
                "--target=h100_sxm:8, for example; --list shows all."
            )


def define() -> None:
    """Defines the flags of this program: those of a training run, and its own."""
    flags.define(CompileSettings)
    flags.define(TrainingSettings)
    recipe_flag.define()
    ramp_flag.define()


def main() -> int:
    """Runs the program."""
    asked = CompileSettings(**flags.values(CompileSettings))
    if asked.list:
        _show_targets()
        return EXIT_DONE
    chosen = [targets.target(text) for text in asked.target]
    results = _Results(asked)
    if asked.compile_only:
        return _compile_only(asked.compile_only, chosen, results)
    settings = _training_settings()
    if asked.export_only:
        return _export_only(asked, settings, chosen)
    _check_environment(asked)
    code = EXIT_DONE
    with tempfile.TemporaryDirectory(prefix="tf_lars_compile_") as folder:
        work = _Work(asked, settings, results, folder)
        for target in chosen:
            if not _fits(asked, work, target):
                code = EXIT_BAD_INPUT
    results.tell()
    return code


class _Results:
    """The file of results, to which each step is added as soon as it is compiled.

    A step for the same target, settings and batch as an earlier one takes its place.

    Args:
      asked: Settings of the compilation.

    Raises:
      InputError: There is a file that holds something else.
    """

    def __init__(self, asked: CompileSettings):
        self._path, self._picture = asked.output, asked.picture
        self._steps: dict[tuple, CompiledStep] = {}
        self._alike: list[CompiledStep] = []
        if files.exists(self._path):
            self._steps = {step.key: step for step in compiled_steps.read(self._path)}

    def add(self, step: CompiledStep) -> None:
        """Adds a step, and writes the file."""
        self._steps[step.key] = step
        steps = list(self._steps.values())
        is_csv = self._path.endswith(".csv")
        (compiled_steps.write_csv if is_csv else compiled_steps.write_json)(self._path, steps)
        self._alike = [one for one in steps if one.of_run == step.of_run]

    def tell(self) -> None:
        """Draws the chart of the last step's model, for several batches, and names the files."""
        told = f"results in {self._path}"
        if self._picture and len({step.per_replica_batch_size for step in self._alike}) > 1:
            from tf_lars.xla import memory_chart

            memory_chart.draw(self._alike, self._picture)
            told += f", chart in {self._picture}"
        print(told, flush=True)


class _Work:
    """Exports and compiles steps; each export serves all targets of as many devices.

    Args:
      asked: Settings of the compilation.
      settings: Settings of the run.
      results: File of results.
      folder: Folder for exported steps.
    """

    def __init__(
        self, asked: CompileSettings, settings: TrainingSettings, results: _Results, folder: str
    ):
        self._asked, self._settings, self._folder = asked, settings, folder
        self._results = results
        self._exported: dict[tuple[TrainingSettings, int], str] = {}

    def run_for(self, target: Target, batch: int | None) -> TrainingSettings:
        """Returns the settings of the step for a number of images per device."""
        return replica_step.for_replicas(self._settings, target.num_devices, batch)

    def compiled(self, run: TrainingSettings, target: Target) -> CompiledStep:
        """Returns the compiled step of a run, and prints what was found."""
        share = run.global_batch_size // target.num_devices
        what = f"{run.model}, {share:,} images per device"
        key = (run, target.num_devices)
        if key not in self._exported:
            print(f"exporting {what}, for {target.num_devices} devices", flush=True)
            path = os.path.join(self._folder, f"step_{len(self._exported)}.zip")
            exported_step.write(path, replica_step.export(run, target.num_devices))
            self._exported[key] = path
        output = os.path.join(self._folder, "compiled.json")
        _compile_apart(self._asked, self._exported[key], target, output, what)
        [step] = compiled_steps.read(output)
        print("\n".join(compiled_report.lines(step, target)), flush=True)
        self._results.add(step)
        return step


def _fits(asked: CompileSettings, work: _Work, target: Target) -> bool:
    """Compiles for a target, and returns whether what was asked for fits.

    If it does not, smaller steps are compiled until one does.
    """
    if asked.sweep:
        steps = [work.compiled(work.run_for(target, batch), target) for batch in asked.sweep]
        print(compiled_report.largest_that_fits(steps), flush=True)
        return any(step.fits for step in steps)
    run = work.run_for(target, asked.per_replica_batch_size)
    steps = [work.compiled(run, target)]
    fits = steps[0].fits
    while not steps[-1].fits and steps[-1].images_at_once > 1:  # find what does
        share, at_once = steps[-1].per_replica_batch_size, steps[-1].images_at_once
        if run.micro_batch_size:
            part = next(size for size in range(at_once // 2, 0, -1) if share % size == 0)
            run = dataclasses.replace(run, micro_batch_size=part)
        else:
            run = work.run_for(target, share // 2)
        steps.append(work.compiled(run, target))
    if not fits:
        print(compiled_report.largest_that_fits(steps), flush=True)
    return fits


def _training_settings() -> TrainingSettings:
    """Returns the settings of the run, with synthetic data of ImageNet's size by default."""
    values = ramp_flag.chosen(flags.values(TrainingSettings))
    if not values.get("data_dir") and "data" not in values:
        values["data"] = synthetic_data.NAME
    if recipe_flag.wanted():
        values |= recipe_flag.choose(values).values
    return TrainingSettings(**values)


def _export_only(asked: CompileSettings, settings: TrainingSettings, chosen: list[Target]) -> int:
    """Exports one step for one number of devices; returns the exit code."""
    assert asked.export_only is not None
    counts = {target.num_devices for target in chosen}
    if asked.sweep or len(counts) > 1:
        raise InputError(
            "--export_only writes one step. Received: several batches, or targets of "
            f"{', '.join(map(str, sorted(counts)))} devices. Export them one by one."
        )
    [replicas] = counts
    run = replica_step.for_replicas(settings, replicas, asked.per_replica_batch_size)
    exported_step.write(asked.export_only, replica_step.export(run, replicas))
    print(
        f"exported to {asked.export_only}; next: {_PYTHON} -m launch.compile_for "
        f"--compile_only={asked.export_only} --target={','.join(asked.target)}",
        flush=True,
    )
    return EXIT_DONE


def _compile_only(path: str, chosen: list[Target], results: _Results) -> int:
    """Compiles the step in a file, in this process; returns the exit code."""
    from tf_lars.xla import compiler

    steps = []
    for target in chosen:
        steps.append(compiler.compile_for(exported_step.read(path), target))
        print("\n".join(compiled_report.lines(steps[-1], target)), flush=True)
        results.add(steps[-1])
    results.tell()
    return EXIT_DONE if all(step.fits for step in steps) else EXIT_BAD_INPUT


def _check_environment(asked: CompileSettings) -> None:
    if not os.path.exists(asked.compile_python):
        raise InputError(
            "Compiling needs the environment of `make setup-compile`. Received: "
            f"--compile_python={asked.compile_python}, which does not exist. Run "
            "`make setup-compile` once, or name its Python."
        )


def _compile_apart(
    asked: CompileSettings, exported: str, target: Target, output: str, what: str
) -> None:
    """Compiles a step in the environment with JAX, in a process with a time limit.

    Raises:
      InputError: The compiler has refused the step, has died or takes too long.
    """
    command = [
        asked.compile_python,
        "-m",
        "launch.compile_for",
        f"--compile_only={exported}",
        f"--target={target.name}",
        f"--output={output}",
    ]
    print(f"compiling for {target.name}: {what}", flush=True)
    if os.path.exists(output):
        os.remove(output)
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                while process.poll() is None:
                    left = begin + 60 * asked.timeout_minutes - time.monotonic()
                    if left <= 0:
                        raise InputError(
                            "A compilation must end within --timeout_minutes="
                            f"{asked.timeout_minutes:g}. Received: one of {what} for {target.name} "
                            "that does not. Allow more time, or compile a smaller batch."
                        )
                    try:
                        process.wait(min(_SECONDS_BETWEEN_LINES, left))
                    except subprocess.TimeoutExpired:
                        spent = time.monotonic() - begin
                        print(f"compiling for {target.name}: {spent:,.0f} s", flush=True)
            finally:
                process.kill()  # does nothing to one that has ended
        if os.path.exists(output):
            return
        log.seek(0)
        told = log.read().strip().splitlines()
    reason = told[-1].removeprefix("error: ") if told else "no message"
    raise InputError(
        f"The compiler of {target.name} must accept the step. Received: exit code "
        f"{process.returncode}, {reason[:500]}"
    )


def _show_targets() -> None:
    """Prints the targets in aligned columns."""
    table = targets.table()
    rows = [{name: name for name in table[0]}, *table]
    widths = {name: max(len(row[name]) for row in rows) for name in table[0]}
    for row in rows:
        print("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


if __name__ == "__main__":
    define()
    app.run(main)

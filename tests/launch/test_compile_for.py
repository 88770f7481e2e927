"""`python -m launch.compile_for` from the command line."""

import dataclasses
import json
import re
import textwrap

import pytest

from tests.helpers import jax_environment, programs
from tests.helpers.jax_environment import needs_jax
from tf_lars.planner import compiled_steps
from tf_lars.xla import exported_step, targets

PROGRAM = "launch.compile_for"
TINY = ("--model=small_resnet8", "--image_size=8", "--epochs=2", "--warmup_epochs=1")


def _is_refused(done, message):
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if not _is_of_tensorflow(line)]
    assert line.startswith("error: ")
    assert message in line
    assert not done.stdout


def _is_of_tensorflow(line):
    """Returns whether TensorFlow or XLA wrote a line to the standard error."""
    return bool(re.match(r"WARNING: All log messages|[IWE]\d{4} ", line))


def test_the_targets_are_listed(tmp_path):
    done = programs.run(PROGRAM, "--list")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["target", "devices", "memory", "bandwidth", "peak", "source"]
    assert [row.split()[0] for row in rows] == [row["target"] for row in targets.table()]
    [h100] = [row for row in rows if row.startswith("h100_sxm:8 ")]
    assert re.match(r"h100_sxm:8 +8 +79\.11 GiB +3,352 GB/s +989 TFLOP/s +openxla/xla: ", h100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--target must name the devices to compile for"),
        (["--target=h100_sxm:12"], "from 1 to 8, or a multiple of it"),
        (["--target=abacus"], "A target must be one of"),
        (
            ["--target=h100_sxm:2", "--sweep=8,16", "--per_replica_batch_size=8"],
            "The batch per device is given once",
        ),
        (["--target=h100_sxm:2", "--sweep=0"], "--sweep must be from 1 to"),
        (["--target=h100_sxm:2", "--timeout_minutes=0"], "--timeout_minutes must be above 0"),
        (
            ["--target=h100_sxm:2", "--compile_python=missing/python"],
            "--compile_python=missing/python, which does not exist. Run `make setup-compile`",
        ),
        (
            ["--target=h100_sxm:2", "--micro_batch_size=auto", "--export_only={folder}/step.zip"],
            "Received: --micro_batch_size=auto, which is found by trial on the device",
        ),
        (
            ["--target=h100_sxm:2", "--export_only={folder}/step.zip", "--sweep=8,16"],
            "--export_only writes one step",
        ),
        (
            ["--target=h100_sxm:2,v5e:2x2", "--export_only={folder}/step.zip"],
            "targets of 2, 4 devices",
        ),
        (
            ["--target=h100_sxm:3", "--export_only={folder}/step.zip", "--global_batch_size=256"],
            "256",
        ),
        (["--target=h100_sxm:2", "--output={folder}/damaged.json"], "as launch.compile_for writes"),
        (["--target=h100_sxm:2", "--compile_only={folder}/missing.zip"], "file must be readable"),
        (["--target=h100_sxm:2", "--compile_only={folder}/damaged.json"], "Export it again"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(flags, message, tmp_path):
    (tmp_path / "damaged.json").write_text("{}", encoding="utf-8")
    _is_refused(
        programs.run(PROGRAM, *TINY, *(flag.format(folder=tmp_path) for flag in flags)), message
    )
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.json"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported step of a tiny model for two devices, and what the program printed."""
    path = tmp_path_factory.mktemp("exported") / "step.zip"
    flags = ["--per_replica_batch_size=8", "--target=h100_sxm:2", f"--export_only={path}"]
    done = programs.run(PROGRAM, *TINY, *flags)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_a_step_is_exported_alone(exported):
    path, printed = exported
    assert f"exported to {path}; next: " in printed
    assert f"--compile_only={path} --target=h100_sxm:2" in printed
    step = exported_step.read(str(path))
    assert step.num_replicas == 2
    assert {tensor.shape[0] for tensor in step.arguments} == {8}
    assert step.gradient_bytes == 4 * step.about["parameters"]
    assert step.about["per_replica_batch_size"] == 8
    assert step.about["optimizer"] == "lars"
    assert [file.name for file in path.parent.iterdir()] == ["step.zip"]


def test_compiling_without_jax_names_what_installs_it(exported, tmp_path):
    # The environment with TensorFlow has no compiler for absent devices.
    done = programs.run(PROGRAM, f"--compile_only={exported[0]}", "--target=h100_sxm:2")
    _is_refused(done, "Run `make setup-compile`")


@needs_jax
@pytest.mark.slow
def test_an_exported_step_is_compiled_without_tensorflow(exported, tmp_path):
    output = tmp_path / "compiled.json"
    flags = [f"--compile_only={exported[0]}", "--target=h100_sxm:2", f"--output={output}"]
    done = jax_environment.run("-m", PROGRAM, *flags)
    assert done.returncode == 0, done.stderr
    assert "\nmemory      fits: " in done.stdout
    assert "weights, momentum and statistics are updated in place" in done.stdout
    [step] = json.loads(output.read_text(encoding="utf-8"))["steps"]
    assert (step["target"], step["devices"], step["fits"]) == ("h100_sxm:2", 2, True)
    assert step["all_reduces"] == 1
    assert step["all_reduce_bytes"] == step["gradient_bytes"] == 4 * step["parameters"]
    assert 0 < step["peak_bytes"] < 2**30
    assert step["flops"] == pytest.approx(3 * step["forward_flops"] * 8, rel=0.15)
    assert "jax-cuda12-plugin" in step["versions"]
    more = jax_environment.run(
        "-m", PROGRAM, *flags[:1], "--target=h100_sxm:8", f"--output={output}"
    )
    _is_refused(more, "exported for the 8 devices of h100_sxm:8. Received: one of 2 replicas")


@needs_jax
@pytest.mark.slow
def test_the_whole_command(tmp_path):
    output, picture = tmp_path / "compiled.csv", tmp_path / "memory.png"
    flags = ["--target=h100_sxm:2", f"--output={output}", f"--picture={picture}"]
    done = programs.run(PROGRAM, *TINY, *flags, "--sweep=8,32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fits: ") == 2
    assert "h100_sxm:2: the largest that fits is 32 per device\n" in done.stdout
    assert done.stdout.endswith(f"results in {output}, chart in {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    steps = compiled_steps.read(str(output))
    assert [step.per_replica_batch_size for step in steps] == [8, 32]
    assert steps[0].peak_bytes < steps[1].peak_bytes
    # A step in micro-batches is another, and its operations are counted without their loop.
    flags += ["--per_replica_batch_size=8", "--micro_batch_size=4"]
    done = programs.run(PROGRAM, *TINY, *flags)
    assert done.returncode == 0, done.stderr
    third = compiled_steps.read(str(output))[2]
    assert (third.per_replica_batch_size, third.micro_batch_size) == (8, 4)
    assert third.flops == pytest.approx(steps[0].flops, rel=0.05)
    assert third.bytes_accessed is None


@needs_jax
@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_reported_with_the_largest_that_does(tmp_path):
    output = tmp_path / "compiled.json"
    flags = ["--target=l4:2", f"--output={output}", "--picture=", "--image_size=1024"]
    done = programs.run(PROGRAM, TINY[0], *TINY[2:], *flags, "--per_replica_batch_size=64")
    assert done.returncode == 2, done.stderr
    assert "does not fit: 32." in done.stdout
    assert "l4:2: the largest that fits is 32 per device (tried: 64, 32)" in done.stdout
    first, second = compiled_steps.read(str(output))
    assert (first.fits, second.fits) == (False, True)
    assert first.peak_bytes > first.device_bytes >= second.peak_bytes


@needs_jax
@pytest.mark.slow
def test_a_model_of_the_user_and_a_compiler_that_takes_too_long(tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import keras


            def build(num_classes, image_size):
                return keras.Sequential(
                    [
                        keras.Input((image_size, image_size, 3)),
                        keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
                        keras.layers.BatchNormalization(),
                        keras.layers.ReLU(),
                        keras.layers.GlobalAveragePooling2D(),
                        keras.layers.Dense(num_classes),
                    ]
                )
            """
        ),
        encoding="utf-8",
    )
    output = tmp_path / "compiled.json"
    flags = [f"--model={tmp_path / 'mine.py'}:build", *TINY[1:], "--target=h100_sxm:2"]
    flags += ["--per_replica_batch_size=8", f"--output={output}", "--picture="]
    done = programs.run(PROGRAM, *flags)
    assert done.returncode == 0, done.stderr
    [step] = compiled_steps.read(str(output))
    assert step.model.endswith("mine.py:build")
    # A convolution, a normalisation and a layer of 1,000 classes.
    assert step.parameters == 3 * 3 * 3 * 8 + 2 * 8 + (8 + 1) * 1000
    done = programs.run(PROGRAM, *flags, "--timeout_minutes=0.001")
    assert done.returncode == 2
    assert "A compilation must end within --timeout_minutes=0.001" in done.stderr


CANARY = """
from tf_lars.errors import InputError
from tf_lars.xla import compiler

compiler.prepare_environment()
compiler.check_private_api()
print("as expected")
fakes = {
    "jaxlib._hlo": ("HloModule", "NoSuchName"),
    "jaxlib.no_such_module": ("Anything",),
}
for path, names in fakes.items():
    compiler.PRIVATE = {path: names}
    try:
        compiler.check_private_api()
    except InputError as error:
        print(error)
"""


@needs_jax
def test_the_private_names_of_jax_are_where_they_were():
    done = jax_environment.run("-c", CANARY)
    assert done.returncode == 0, done.stderr  # the message names what has moved
    expected, moved, missing = done.stdout.splitlines()
    assert expected == "as expected"
    assert moved.startswith("Compiling needs jaxlib._hlo.NoSuchName of JAX. Received: jax ")
    assert moved.endswith("which installs the version that has it.")
    assert missing.startswith("Compiling needs JAX with jaxlib.no_such_module. Received: ")


CUTTING = """
import dataclasses, sys
from tf_lars.xla import compiler, exported_step, targets

step = exported_step.read(sys.argv[1])
small = dataclasses.replace(targets.target("h100_sxm:2"), memory_bytes=2**20)
compiled = compiler.compile_for(step, small)
print(compiled.fits, compiled.peak_bytes > 2**20)
"""


@needs_jax
@pytest.mark.slow
def test_the_memory_of_the_target_decides(exported):
    done = jax_environment.run("-c", CUTTING, exported[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False True"


def test_what_fits_and_what_does_not_is_told(exported):
    from tf_lars.xla import compiled_report

    target = targets.target("v5e:2x2")
    known = [step for step in compiled_steps.packaged() if step.target == target.name]
    assert known[0].fits
    printed = "\n".join(compiled_report.lines(known[0], target))
    assert "memory      fits: " in printed
    assert "code 0." in printed  # of TPUs, the program is in the same memory
    ended = dataclasses.replace(known[0], fits=False, peak_bytes=None, per_replica_batch_size=8192)
    assert "needs more than the 15.75 GiB of a device" in compiled_report.verdict(ended, target)
    assert compiled_report.largest_that_fits([ended]).startswith(
        "v5e:2x2: no batch per device of 8,192 fits"
    )

"""Compiled steps: their files, and the table that comes with the package."""

import csv
import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf_lars.errors import InputError
from tf_lars.planner import compiled_steps, devices
from tf_lars.planner.compiled_steps import CompiledStep
from tf_lars.planner.workloads import TRAINING_PASSES, workload
from tf_lars.xla.targets import target

KNOWN = CompiledStep(
    target="h100_sxm:8",
    accelerator="H100-SXM",
    devices=8,
    model="small_resnet8",
    image_size=32,
    optimizer="lars",
    precision="bfloat16",
    per_replica_batch_size=64,
    micro_batch_size=16,
    fits=True,
    peak_bytes=3 * 2**30,
    device_bytes=84_942_979_072,
    argument_bytes=2**30,
    output_bytes=2**20,
    alias_bytes=2**20,
    temporary_bytes=2 * 2**30,
    code_bytes=0,
    updated_in_place=True,
    flops=1.5e12,
    bytes_accessed=2.5e10,
    all_reduces=1,
    all_reduce_bytes=569_568,
    gradient_bytes=569_568,
    parameters=142_392,
    forward_flops=8.125e9,
    export_seconds=2.2,
    compile_seconds=12.25,
    versions='tensorflow 2.21.0, jax "0.10.2", läuft',
)
OPTIONAL = [field.name for field in dataclasses.fields(CompiledStep) if "None" in str(field.type)]
UNKNOWN = dataclasses.replace(KNOWN, fits=False, **dict.fromkeys(OPTIONAL))
WRITERS = {".json": compiled_steps.write_json, ".csv": compiled_steps.write_csv}
PACKAGED = compiled_steps.packaged()


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("steps", [[], [KNOWN], [KNOWN, UNKNOWN], PACKAGED])
def test_steps_are_read_as_they_were_written(ending, steps, tmp_path):
    path = str(tmp_path / f"steps{ending}")
    WRITERS[ending](path, steps)
    read = compiled_steps.read(path)
    assert read == steps
    for one, other in zip(read, steps, strict=True):
        for name, value in dataclasses.asdict(other).items():
            assert type(getattr(one, name)) is type(value), name
    assert [file.name for file in tmp_path.iterdir()] == [f"steps{ending}"]


def test_what_a_step_tells_of_itself():
    assert KNOWN.images_at_once == 16
    assert UNKNOWN.images_at_once == 64
    assert KNOWN.arithmetic_intensity == 60
    assert UNKNOWN.arithmetic_intensity is None
    assert KNOWN.key != UNKNOWN.key  # they differ in their micro-batch
    assert KNOWN.key == dataclasses.replace(KNOWN, fits=False, peak_bytes=1).key


def _json(**changes):
    entry = {**dataclasses.asdict(KNOWN), **changes}
    entry = {name: value for name, value in entry.items() if value != "left out"}
    return json.dumps({"format": 1, "steps": [entry]})


def _csv(folder, **changes):
    path = str(folder / "good.csv")
    compiled_steps.write_csv(path, [KNOWN])
    with open(path, encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    row = {k: v for k, v in {**row, **changes}.items() if v != "left out"}
    with open(path, "w", encoding="utf-8") as file:
        table = csv.DictWriter(file, row, lineterminator="\n")
        table.writeheader()
        table.writerow(row)
    with open(path, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[1]",
        '"text"',
        "{}",
        '{"format": 1}',
        '{"format": 2, "steps": []}',
        '{"format": 1, "steps": 3}',
        '{"format": 1, "steps": [3]}',
        '{"format": 1, "steps": {"a": 1}}',
        _json(target="left out"),
        _json(another=1),
        _json(target=None),
        _json(target=3),
        _json(devices="8"),
        _json(devices=8.5),
        _json(devices=0),
        _json(per_replica_batch_size=0),
        _json(peak_bytes="much"),
        _json(peak_bytes=-1),
        _json(device_bytes=None),
        _json(fits="yes"),
        _json(fits=1),
        _json(flops=True),
        _json(flops=float("nan")),
        _json(forward_flops=float("inf")),
    ],
)
def test_a_damaged_json_file_is_refused_in_one_sentence(content, tmp_path):
    _is_refused(tmp_path / "steps.json", content)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "left out"},
        {"another": "1"},
        {"devices": ""},
        {"devices": "8.5"},
        {"devices": "many"},
        {"peak_bytes": "[1]"},
        {"peak_bytes": "true"},
        {"fits": "1"},
        {"fits": ""},
        {"updated_in_place": "0"},
        {"flops": "nan"},
        {"versions": "left out"},
    ],
)
def test_a_damaged_csv_file_is_refused_in_one_sentence(changes, tmp_path):
    _is_refused(tmp_path / "steps.csv", _csv(tmp_path, **changes))


def test_a_row_that_is_cut_or_too_long_is_refused(tmp_path):
    whole = _csv(tmp_path)
    for content in (whole[:-60], whole.rstrip("\n") + ",1\n"):
        _is_refused(tmp_path / "steps.csv", content)
    header, row = whole.splitlines()
    without_versions = row[: row.index(',"tensorflow')]
    _is_refused(tmp_path / "steps.csv", f"{header}\n{without_versions}\n")


def _is_refused(path, content):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"must be as launch\.compile_for writes it") as caught:
        compiled_steps.read(str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), ending=st.sampled_from(sorted(WRITERS)))
def test_damaged_files_are_read_or_refused(data, ending, tmp_path):
    path = tmp_path / f"steps{ending}"
    WRITERS[ending](str(path), [KNOWN, UNKNOWN])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    refused = None
    try:
        compiled_steps.read(str(path))
    except InputError as error:
        refused = str(error)
    assert refused is None or len(refused.splitlines()) == 1


@pytest.mark.parametrize("ending", WRITERS)
def test_files_that_cannot_be_read_or_written(ending, tmp_path):
    with pytest.raises(InputError, match="A file must be readable"):
        compiled_steps.read(str(tmp_path / f"missing{ending}"))
    with pytest.raises(InputError, match="must be writable"):
        WRITERS[ending](str(tmp_path / "missing" / f"steps{ending}"), [KNOWN])


def _name(step):
    micro = f", {step.micro_batch_size}" if step.micro_batch_size else ""
    return f"{step.target}, {step.precision}, {step.per_replica_batch_size}{micro}"


def test_the_packaged_steps_differ():
    assert len({step.key for step in PACKAGED}) == len(PACKAGED) >= 19


@pytest.mark.parametrize("step", PACKAGED, ids=_name)
def test_every_packaged_step_is_consistent(step):
    known = target(step.target)
    assert (step.target, step.devices) == (known.name, known.num_devices)
    assert (step.accelerator, step.device_bytes) == (known.accelerator, known.memory_bytes)
    assert devices.peak_flops(step.accelerator)
    assert step.gradient_bytes == 4 * step.parameters
    if step.image_size == 224:
        assert step.parameters == workload(step.model).parameters
        assert step.forward_flops == pytest.approx(workload(step.model).forward_flops, rel=0.03)
    if step.flops is not None and step.micro_batch_size is None:
        counted = TRAINING_PASSES * step.forward_flops * step.per_replica_batch_size
        assert step.flops == pytest.approx(counted, rel=0.03)
    if step.all_reduce_bytes is not None:
        assert step.all_reduce_bytes == pytest.approx(step.gradient_bytes, rel=0.05)
        assert step.all_reduces
    if step.peak_bytes is not None:
        assert step.fits == (step.peak_bytes <= step.device_bytes)
    if step.argument_bytes is not None:
        parts = [step.argument_bytes, step.output_bytes, step.temporary_bytes, step.code_bytes]
        assert step.peak_bytes == sum(parts) - step.alias_bytes
        assert step.updated_in_place
        # Weights and velocities are inputs.
        assert step.argument_bytes > 2 * step.gradient_bytes


def test_the_memory_of_the_packaged_steps_grows_with_the_batch():
    by_run = {}
    for step in PACKAGED:
        if step.peak_bytes is not None:
            by_run.setdefault((step.target, *step.of_run), []).append(step)
    for steps in by_run.values():
        steps.sort(key=lambda step: step.per_replica_batch_size)
        peaks = [step.peak_bytes for step in steps]
        assert peaks == sorted(peaks)

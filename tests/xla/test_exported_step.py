"""Exported steps: the file, and what a program says of itself."""

import dataclasses
import io
import json
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf_lars import LARS
from tf_lars.errors import InputError
from tf_lars.xla import exported_step
from tf_lars.xla.exported_step import ExportedStep, Tensor
from tf_lars.xla.one_of_many import OneOfMany
from tf_lars.xla.step_program import StepProgram

REPLICAS = 4
ABOUT = {"model": "tiny", "num_replicas": REPLICAS, "micro_batch_size": None}
STEP = ExportedStep(
    arguments=(Tensor("0", (4, 8), "float32"), Tensor("1", (4,), "int64")),
    state=(
        Tensor("dense/kernel", (8, 2), "bfloat16"),
        Tensor("constant_1", (), "bool"),
        Tensor("iteration", (), "int64"),
    ),
    results=(Tensor("result_0", (), "float32"),),
    changed=(0, 2),
    gradient_bytes=64,
    all_reduces=((64, 1), (8, 2)),
    about=ABOUT,
    hlo=bytes(range(256)),
    whole_hlo=b"whole",
    values={
        "0": np.arange(32, dtype=np.float32).reshape(4, 8),
        "after_1/dense/kernel": np.full((8, 2), -0.5),
        "iteration": np.int64(2**40),
    },
)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "step.zip")


@pytest.mark.parametrize(
    "changes", [{}, {"whole_hlo": None}, {"values": {}}, {"whole_hlo": None, "values": {}}]
)
def test_a_step_is_read_as_it_was_written(changes, path, tmp_path):
    step = dataclasses.replace(STEP, **changes)
    exported_step.write(path, step)
    read = exported_step.read(path)
    assert dataclasses.replace(read, values={}) == dataclasses.replace(step, values={})
    assert read.values.keys() == step.values.keys()
    for name, value in step.values.items():
        np.testing.assert_array_equal(read.values[name], value)
        assert read.values[name].dtype == value.dtype
    assert [file.name for file in tmp_path.iterdir()] == ["step.zip"]


def test_sizes_are_those_of_the_arrays():
    assert [tensor.bytes for tensor in STEP.state] == [8 * 2 * 2, 1, 8]
    assert STEP.state[0].bytes == np.zeros((8, 2), ml_dtypes.bfloat16).nbytes
    assert STEP.state_bytes == 32 + 8
    assert STEP.num_replicas == REPLICAS


def _archive(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return content.getvalue()


def _fields(**changes):
    names = ("hlo", "whole_hlo", "values")
    fields = {k: v for k, v in dataclasses.asdict(STEP).items() if k not in names}
    return json.dumps({"format": 1, **fields, **changes})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        _archive(other="text"),
        _archive(step_json="{}"),
        _archive(step_json="[1]", step_hlo=b""),
        _archive(step_json='"text"', step_hlo=b""),
        _archive(step_json="{", step_hlo=b""),
        _archive(step_json="[" * 100_000, step_hlo=b""),
        _archive(step_json=_fields(format=2), step_hlo=b""),
        _archive(step_json=_fields()),
        _archive(step_json=_fields(state=[1]), step_hlo=b""),
        _archive(step_json=_fields(arguments=[{"name": "0", "shape": 3}]), step_hlo=b""),
        _archive(step_json=_fields(unknown=3), step_hlo=b""),
        _archive(step_json=_fields(), step_hlo=b"", values_npz=b"no arrays"),
    ],
)
def test_foreign_files_are_refused_in_one_sentence(content, path):
    with open(path, "wb") as file:
        file.write(content)
    _is_refused(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.zip"):
        with pytest.raises(InputError, match="A file must be readable"):
            exported_step.read(str(path))
    with pytest.raises(InputError, match="The output folder must be writable"):
        exported_step.write(str(tmp_path / "missing" / "step.zip"), STEP)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_refused(data, path):
    exported_step.write(path, STEP)
    with open(path, "rb") as file:
        content = bytearray(file.read())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    with open(path, "wb") as file:
        file.write(content)
    read = refused = None
    try:
        read = exported_step.read(path)
    except InputError as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1
    else:  # such as a changed time of a member
        assert (read.hlo, read.about) == (STEP.hlo, STEP.about)


def _is_refused(path):
    with pytest.raises(InputError, match=r"a step that launch\.compile_for has exported") as caught:
        exported_step.read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith("Export it again.")


@pytest.fixture(scope="module")
def program():
    strategy = OneOfMany(REPLICAS)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Dense(16, name="hidden"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dense(2, name="head"),
            ]
        )
        model.compile(LARS(1.0, momentum=0.9), loss="mse")
    element = (tf.TensorSpec([4, 8]), tf.TensorSpec([4, 2]))
    yield StepProgram(model, strategy, element)
    keras.backend.clear_session()


def test_the_gradients_are_summed_in_one_all_reduce(program):
    step = program.exported(ABOUT)
    trained = sum(v.shape.num_elements() for v in program.model.trainable_variables)
    assert trained == (8 + 1) * 16 + 2 * 16 + (16 + 1) * 2
    assert step.gradient_bytes == 4 * trained
    assert step.num_replicas == REPLICAS
    # The statistics of batch normalisation are averaged by themselves.
    gradients = len(program.model.trainable_variables)
    assert [bytes_ for bytes_, tensors in step.all_reduces if tensors == gradients] == [4 * trained]
    assert program.lowered("stablehlo").count("stablehlo.all_reduce") == len(step.all_reduces)


def test_what_a_step_changes_are_weights_and_velocities_and_statistics(program):
    step = program.exported(ABOUT)
    names = [tensor.name for tensor in step.state]
    assert len(set(names)) == len(names)
    changed = {names[i] for i in step.changed}
    model, optimizer = program.model, program.model.optimizer
    assert {v.path for v in model.trainable_variables} <= changed
    velocities = {v.path for v in optimizer.variables if "velocity" in v.path}
    assert len(velocities) == len(model.trainable_variables)
    assert velocities <= changed
    assert {v.path for v in model.non_trainable_variables if "moving" in v.path} <= changed
    by_name = dict(zip(names, step.state, strict=True))
    for variable in (*model.trainable_variables, *optimizer.variables):
        assert by_name[variable.path].shape == tuple(variable.shape)
    assert [t.shape for t in step.arguments] == [(4, 8), (4, 2)]
    assert step.state_bytes >= 2 * step.gradient_bytes


def test_the_state_is_put_back(program):
    start = program.state_values()
    kernel = program.model.trainable_variables[0]
    assert start[kernel.path].shape == (8, 16)
    others = {name: np.asarray(value) for name, value in start.items()}
    others[kernel.path] = np.full_like(start[kernel.path], 3.0)
    program.set_state(others)
    np.testing.assert_array_equal(kernel.numpy(), 3.0)
    assert program.state_values().keys() == start.keys()
    program.set_state(start)
    for name, value in program.state_values().items():
        np.testing.assert_array_equal(value, start[name])


def test_a_step_with_its_values_is_read_again(program, path):
    values = program.state_values()
    step = program.exported(ABOUT, values=values)
    exported_step.write(path, step)
    read = exported_step.read(path)
    assert read.values.keys() == {tensor.name for tensor in read.state}
    for tensor in read.state:
        assert read.values[tensor.name].shape == tensor.shape
    assert read.hlo == step.hlo
    assert read.hlo

"""Files that programs read and people edit: any content is accepted or refused in one sentence."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.run import load
from launch.run.settings import TrainingSettings
from tests.helpers.study_cases import STUDY, finished
from tf_lars import planner
from tf_lars.errors import InputError
from tf_lars.setting import as_arguments
from tf_lars.study import result_table, trials
from tf_lars.study.result_log import ResultLog

some = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

NUMBERS = st.sampled_from([0, -1, 1, 2, 0.5, 10**11, 10**18, 10**400, 1e308, -1e308, 1e-308])
ODD_FLOATS = st.sampled_from([float("nan"), float("inf"), -float("inf")])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | ODD_FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
RUN = {
    "model": "small_resnet8",
    "image_size": 32,
    "parameters": 100_000,
    "forward_flops": 1e7,
    "device": "CPU",
    "replicas": 2,
    "cores_per_replica": 1.0,
    "num_hosts": 1,
    "global_batch_size": 256,
    "images_per_second": 1000.0,
}


@st.composite
def _damaged(draw, content):
    """Draws bytes that differ from a file: cut, with bytes replaced, or quite other ones."""
    kind = draw(st.sampled_from(["cut", "replaced", "inserted", "other"]))
    if kind == "other":
        return draw(st.binary(max_size=40) | st.just(b"[" * 100_000) | st.just(b"{}\n" * 3))
    place = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:place]
    piece = draw(st.binary(min_size=1, max_size=6) | st.sampled_from([b"\0", b"\xff\xfe", b"\n,"]))
    return content[:place] + piece + content[place + len(piece) * (kind == "replaced") :]


@st.composite
def _changed(draw, values):
    """Draws a dictionary in which some values differ or are missing."""
    changed = dict(values)
    for name in draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        if draw(st.booleans()):
            changed[name] = draw(VALUES)
        else:
            changed.pop(name, None)
    return json.dumps(changed).encode()


def _works_or_is_refused(call):
    with contextlib.suppress(InputError):
        call()


RESULTS = json.dumps(RUN, indent=1).encode()


@some
@given(content=_changed(RUN) | _damaged(RESULTS), more=st.booleans())
def test_results_of_a_run(tmp_path, content, more):
    (tmp_path / "other.json").write_bytes(RESULTS)
    (tmp_path / "results.json").write_bytes(content)

    def plan():
        runs = [str(tmp_path), *([str(tmp_path / "other.json")] if more else [])]
        device = planner.calibrate(runs)
        model = device.measured_on.name
        planner.predict(model=model, accelerator=device, devices=4, global_batch_size=256, epochs=3)

    _works_or_is_refused(plan)


LINES = as_arguments(TrainingSettings(data_dir="data", model_dir="run", image_size_schedule="0:8"))
FLAGS = "\n".join(LINES).encode()


@st.composite
def _other_lines(draw):
    lines = list(LINES)
    place = draw(st.integers(0, len(lines) - 1))
    name = lines[place].partition("=")[0]
    lines[place] = f"{name}={draw(VALUES)}"
    if draw(st.booleans()):
        lines.insert(place, draw(st.text(max_size=9)))
    return "\n".join(lines).encode(errors="replace")


@some
@given(content=_other_lines() | _damaged(FLAGS))
def test_flags_of_a_run(tmp_path, content):
    # launch.evaluate and launch.export begin with them.
    (tmp_path / "flags.txt").write_bytes(content)
    _works_or_is_refused(lambda: load.settings_of_run(str(tmp_path)))


@pytest.fixture(scope="module")
def study_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    log = ResultLog(folder / "study.csv", {"epochs": 3, "model": "small_resnet8"})
    for one in list(finished().values())[:4]:
        log.add(one)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@st.composite
def _other_cells(draw, content):
    lines = [line.split(",") for line in content.decode().splitlines()]
    row = draw(st.sampled_from(lines))
    row[draw(st.integers(0, len(row) - 1))] = str(draw(VALUES))
    return "\n".join(map(",".join, lines)).encode(errors="replace") + b"\n"


@some
@given(data=st.data())
def test_results_of_a_study(tmp_path, study_files, data):
    content = dict(study_files)
    name = data.draw(st.sampled_from(sorted(content)))
    others = [_damaged(content[name])]
    if name.endswith(".csv"):
        others.append(_other_cells(content[name]))
    else:
        others.append(_changed(json.loads(content[name])))
    content[name] = data.draw(st.one_of(others))
    for file, whole in content.items():
        (tmp_path / file).write_bytes(whole)

    def go_on():
        log = ResultLog(tmp_path / "study.csv", {"epochs": 3, "model": "small_resnet8"})
        trials.remaining(STUDY, log.results)
        result_table.tables(STUDY, log.results, 1.0)

    _works_or_is_refused(go_on)

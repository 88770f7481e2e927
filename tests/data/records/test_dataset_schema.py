"""A `dataset.json` that was changed by hand, by a merge or by damage."""

import contextlib
import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.records.test_dataset_info import example, jpeg
from tf_lars.data.prepare import verify
from tf_lars.data.records.dataset_info import SPLITS, DatasetInfo, SplitInfo
from tf_lars.data.records.example_reader import open_split
from tf_lars.data.records.tfrecord import write_shard
from tf_lars.errors import InputError

SHARDS = 2
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from([-1, 10**11, 10**400, 1 << 60, 0.5, 2.0, float("nan"), float("inf")])
    | st.sampled_from(["", "x", "..", "/etc/passwd", "train-00000-of-00002", "\ud800", "a\0b"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    splits = {}
    for split in SPLITS:
        shards = [
            write_shard(
                folder / f"{split}-{i:05}-of-{SHARDS:05}",
                [example(n, encoded=jpeg(n)) for n in (1, 2)],
            )
            for i in range(SHARDS)
        ]
        splits[split] = SplitInfo(tuple(shards))
    report = {
        split: {
            "reencoded": {"count": 1, "files": [["a.png", "PNG"]]},
            "refused": {"count": 0, "files": []},
            "resized": {"count": 0},
            "oriented": {"count": 0},
        }
        for split in SPLITS
    }
    config = {"plan": "0" * 64, "shuffle_seed": 0, "short_side": None, "jpeg_quality": 95}
    DatasetInfo("two", ("a", "b"), ("n1", "n2"), splits, config, report).save(folder)
    return folder


@pytest.fixture(scope="module")
def original(folder):
    return json.loads((folder / "dataset.json").read_text()), DatasetInfo.load(folder)


@pytest.fixture(autouse=True)
def restored(folder, original):
    yield
    (folder / "dataset.json").write_text(json.dumps(original[0]))


def _write(folder, content):
    (folder / "dataset.json").write_text(json.dumps(content))


def _containers(node):
    if isinstance(node, dict | list):
        yield node
        for child in node.values() if isinstance(node, dict) else node:
            yield from _containers(child)


@st.composite
def changes(draw):
    """Returns a function that replaces, deletes, copies or retypes a value of a JSON tree."""
    numbers = [draw(st.integers(0, 10**6)) for _ in range(4)]
    kind = draw(st.sampled_from(["replace", "delete", "copy", "text", "list", "float", "swap"]))
    value = draw(JSON)

    def change(content):
        places = [node for node in _containers(content) if node]
        node = places[numbers[0] % len(places)]
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key, other = (keys[number % len(keys)] for number in numbers[1:3])
        if kind == "delete":
            del node[key]
        elif kind == "copy" and isinstance(node, list):
            node.insert(numbers[3] % (len(node) + 1), copy.deepcopy(node[key]))
        elif kind == "copy":
            node[f"{key}2"] = copy.deepcopy(node[key])
        elif kind == "swap":
            node[key], node[other] = node[other], node[key]
        else:
            retyped = {"text": str(node[key]), "list": [node[key]], "replace": value}
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                retyped["float"] = float(node[key]) if kind == "float" else 0
            node[key] = copy.deepcopy(retyped.get(kind, value))

    return change


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(changes(), min_size=1, max_size=2), st.booleans())
def test_any_change_is_refused_in_one_sentence_or_makes_no_difference(
    folder, original, many, sealed
):
    content, info = copy.deepcopy(original[0]), original[1]
    if not sealed:
        del content["checksum"]
    for change in many:
        change(content)
    _write(folder, content)
    message = _refusal(folder, info if sealed and "checksum" in content else None)
    assert message is None or "Received:" in message


def _refusal(folder, same_as):
    """Returns the sentence with which a data set is refused by one of its uses, or None."""
    try:
        info = DatasetInfo.load(folder)
        assert same_as in (None, info)
        assert len(info.fingerprint) == 16
        assert info.num_refused >= 0
        open_split.cache_clear()
        for split in SPLITS:
            open_split(str(folder), split)
        verify.verify(folder)
    except InputError as error:
        return str(error)
    return None


def _shards(content, split="train"):
    return content["splits"][split]["shards"]


def _listed_as_validation(content):
    _shards(content, "validation").append(_shards(content).pop())


# Changes which the checksum shows; without it, each is found by what it breaks.
CHANGES = {
    "a shard twice": (lambda c: _shards(c).append(_shards(c)[0]), "listed twice, in train and"),
    "a shard in both splits": (
        lambda c: _shards(c, "validation").append(_shards(c)[0]),
        "listed twice, in train and in validation",
    ),
    "training as validation": (
        lambda c: c["splits"].update(
            train=c["splits"]["validation"], validation=c["splits"]["train"]
        ),
        "validation-00000-of-00002 is listed in train",
    ),
    "one shard moved": (_listed_as_validation, "train is without number 1 of the 2"),
    "a shard left out": (lambda c: _shards(c).pop(), "train is without number 1 of the 2"),
    "outside": (lambda c: _shards(c)[0].update(name="../x"), r"shards\[0\].name is '../x', not"),
    "a negative number": (lambda c: _shards(c)[0].update(num_examples=-1), "is -1, not a whole"),
    "a fraction": (lambda c: _shards(c)[0].update(num_bytes=1.0), "is 1.0, not a whole"),
    "true": (lambda c: c.update(label_base=True), "label_base is True, not 0 or 1"),
    "a short hash": (lambda c: _shards(c)[0].update(sha256="0"), "not 64 hexadecimal digits"),
    "names alone": (lambda c: c["class_names"].append("c"), "3 entries, and synsets 2"),
    "a quality": (lambda c: c["settings"].update(jpeg_quality="95"), "jpeg_quality is '95', not"),
    "no counts": (lambda c: c.update(report={}), "report.train is missing"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_value_is_checked_with_or_without_a_checksum(kind, folder, original):
    change, message = CHANGES[kind]
    content = copy.deepcopy(original[0])
    change(content)
    for sealed in (True, False):
        if not sealed:
            del content["checksum"]
        _write(folder, content)
        with pytest.raises(InputError, match=message) as error:
            DatasetInfo.load(folder)
        assert f"{folder}" in str(error.value)


FOUND_BY_VERIFY = {
    "another count": (lambda c: _shards(c)[0].update(num_examples=3), "with 2 instead of 3"),
    "another hash": (lambda c: _shards(c)[0].update(sha256="0" * 64), "1 of 4 that differ"),
    "a class too many": (
        lambda c: (c["class_names"].append("c"), c["synsets"].append("n3")),
        "must have an example.*1 without one: c",
    ),
    "a class too few": (lambda c: (c["class_names"].pop(), c["synsets"].pop()), "records with 2"),
    "another label base": (lambda c: c.update(label_base=0), "records with 2"),
    "another format": (lambda c: c.update(form="tfds"), "not exactly one image, in record 0"),
}


@pytest.mark.parametrize("kind", FOUND_BY_VERIFY)
def test_what_only_the_records_tell_is_found_by_verify(kind, folder, original):
    change, message = FOUND_BY_VERIFY[kind]
    content = copy.deepcopy(original[0])
    change(content)
    _write(folder, content)
    with pytest.raises(InputError, match="does not match its checksum"):
        verify.verify(folder)
    del content["checksum"]
    _write(folder, content)
    with pytest.raises(InputError, match=message):
        verify.verify(folder)


def test_a_harmless_change_is_accepted_when_the_checksum_is_deleted(folder, original):
    content = {**original[0], "name": "renamed"}
    _write(folder, content)
    with pytest.raises(InputError, match=r'delete its "checksum" entry.*--verify'):
        DatasetInfo.load(folder)
    del content["checksum"]
    _write(folder, content)
    info = verify.verify(folder)
    assert info.name == "renamed"
    assert info.fingerprint == original[1].fingerprint


@pytest.mark.parametrize("text", ["[" * 10**5, '{"version": 1' + "0" * 5000 + "}", "", "\0"])
def test_text_that_is_no_json_for_python_is_refused(text, folder):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(InputError, match="must be JSON"):
        DatasetInfo.load(folder)

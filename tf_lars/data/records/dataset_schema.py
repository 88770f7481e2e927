"""What a `dataset.json` must hold: the type and range of each value, and shards that fit together.

The file may have been edited by hand or merged from several; everything is checked that can be
without the shards.
"""

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from tf_lars.data.records import shard_names
from tf_lars.data.records.example import FORMATS, MOST_PIXELS

SPLITS = ("train", "validation")

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check(content: Mapping[str, Any]) -> None:
    """Checks the content of a `dataset.json`.

    Raises:
      ValueError: A value is missing or not of its kind; the message names the first one.
    """
    _value(content, "name", "a text", _is_text)
    classes, synsets = (
        _value(content, name, "a list of texts", lambda x: _is_list(x, _is_text) and bool(x))
        for name in ("class_names", "synsets")
    )
    if len(classes) != len(synsets):
        raise ValueError(f"class_names has {len(classes)} entries, and synsets {len(synsets)}")
    if "form" in content:
        _value(content, "form", f"one of {', '.join(FORMATS)}", lambda x: x in list(FORMATS))
    if "label_base" in content:
        _value(content, "label_base", "0 or 1", lambda x: _is_number(x) and x <= 1)
    settings = _value(content, "settings", "an object", _is_object)
    _check_settings(settings)
    report = _value(content, "report", "an object", _is_object)
    if report or "plan" in settings:  # written by the preparation
        _check_report(report)
    rule = f"an object of {' and '.join(SPLITS)}"
    _check_shards(
        _value(content, "splits", rule, lambda x: _is_object(x) and sorted(x) == sorted(SPLITS))
    )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Checks the settings that programs use again."""
    for name, rule, holds in (
        ("plan", "a text", _is_text),
        ("short_side", "null or at least 1", lambda x: x is None or (_is_number(x) and x >= 1)),
        ("jpeg_quality", "from 1 to 100", lambda x: _is_number(x) and 1 <= x <= 100),
        ("exif", "apply or ignore", lambda x: x in ("apply", "ignore")),
        (
            "max_image_pixels",
            f"from 1 to {MOST_PIXELS}",
            lambda x: _is_number(x) and 1 <= x <= MOST_PIXELS,
        ),
    ):
        if name in settings:
            _value(settings, name, rule, holds, "settings")


def _check_report(report: Mapping[str, Any]) -> None:
    for split in SPLITS:
        counts = _value(report, split, "an object", _is_object, "report")
        where = f"report.{split}"
        for name in ("reencoded", "refused", *(x for x in ("resized", "oriented") if x in counts)):
            entry = _value(counts, name, "an object", _is_object, where)
            _value(entry, "count", "a whole number from 0", _is_number, f"{where}.{name}")
            if name in ("reencoded", "refused"):
                rule = "a list of files and reasons"
                _value(entry, "files", rule, lambda x: _is_list(x, _is_note), f"{where}.{name}")


def _check_shards(splits: Mapping[str, Any]) -> None:
    listed: dict[str, str] = {}
    for split in SPLITS:
        where = f"splits.{split}"
        entry = _value(splits, split, "an object", _is_object, "splits")
        shards = _value(entry, "shards", "a list of objects", _is_list_of_objects, where)
        for number, shard in enumerate(shards):
            _check_shard(shard, f"{where}.shards[{number}]")
            name = shard["name"]
            if name in listed:
                raise ValueError(f"{name} is listed twice, in {listed[name]} and in {split}")
            listed[name] = split
        names = [name for shard in shards if (name := shard_names.parse(shard["name"]))]
        for name in names:
            if name.splits and split not in name.splits:
                raise ValueError(f"{name.path} is listed in {split}, which its name contradicts")
        if fault := shard_names.fault(names):
            raise ValueError(f"{split} is {fault}")


def _check_shard(shard: Mapping[str, Any], where: str) -> None:
    _value(shard, "name", "the path of a file in the folder", _is_path, where)
    for name in ("num_examples", "num_bytes"):
        _value(shard, name, "a whole number from 0", _is_number, where)
    _value(shard, "sha256", "64 hexadecimal digits", _is_sha256, where)
    if len(shard) > 4:
        raise ValueError(f"{where} has the entries {', '.join(map(reprlib.repr, sorted(shard)))}")


def _value(
    parent: Mapping[str, Any], name: str, rule: str, holds: Callable[[Any], bool], where: str = ""
) -> Any:
    """Returns the value of an entry, which must be there and keep a rule."""
    path = f"{where}.{name}" if where else name
    if name not in parent:
        raise ValueError(f"{path} is missing")
    value = parent[name]
    if not holds(value):
        raise ValueError(f"{path} is {reprlib.repr(value)}, not {rule}")
    return value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    # JSON's numbers have no bounds, but those of TensorFlow do.
    return type(value) is int and 0 <= value < 1 << 53


def _is_sha256(value: Any) -> bool:
    return _is_text(value) and bool(_SHA256.fullmatch(value))


def _is_path(value: Any) -> bool:
    return _is_text(value) and shard_names.is_path(value)


def _is_list(value: Any, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_list_of_objects(value: Any) -> bool:
    return _is_list(value, _is_object)


def _is_note(value: Any) -> bool:
    """Returns whether a value is the place of a bad record, or a pair of a file and a reason."""
    return _is_text(value) or (_is_list(value, _is_text) and len(value) == 2)

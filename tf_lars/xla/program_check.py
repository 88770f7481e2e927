"""What an accelerator could not run in the StableHLO of a program: by name, with a Python line.

A TPU runs programs whose shapes are all known to the compiler, and whose operations need no host.
TensorFlow lowers some others without an error, such as `tf.boolean_mask`, whose result has as many
elements as the mask has ones.
"""

import dataclasses
import re
from collections.abc import Mapping

_DYNAMIC_TYPE = re.compile(r"tensor<[^<>]*\?[^<>]*(?:#stablehlo\.bounds<[^<>]*>)?")
_OPERATION = re.compile(r"(?:= |^\s*)\"?((?:stablehlo|mhlo|chlo|shape|tensor)\.\w+)")
_CALLED = re.compile(r"custom_call @([\w.$]+)|call_target_name = \"([^\"]+)\"")
_LOCATION = re.compile(r"loc\((#loc\d*)\)\s*(?:\{)?$")
_DEFINITION = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
_NAME = re.compile(r"\"([^\"]*)\"")

_ALLOWED_DYNAMIC = ("stablehlo.dynamic_slice", "stablehlo.dynamic_update_slice")
"""Operations with dynamic positions, but a static size."""

_HOST = ("infeed", "outfeed", "send", "recv")

_LOWERED_BY_COMPILERS = ("mhlo.topk",)
"""Custom calls that each XLA backend replaces with its native operations."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """An operation that the accelerator could not run.

    Attributes:
      kind: "dynamic shape", "custom call" or "host operation".
      operation: Operation of StableHLO, or the target of the custom call.
      name: Name of TensorFlow's operation, or "".
    """

    kind: str
    operation: str
    name: str


def problems(stablehlo: str) -> list[Problem]:
    """Returns what the program does that an accelerator cannot, each operation once.

    Args:
      stablehlo: Text of the module, with locations.
    """
    lines = stablehlo.splitlines()
    definitions = {m[1]: m[2] for line in lines if (m := _DEFINITION.match(line))}
    found: dict[Problem, None] = {}
    for line in lines:
        operation = _OPERATION.search(line)
        if operation is None:
            continue
        kind, what = _kind(operation[1], line)
        if kind:
            found[Problem(kind, what, _name(line, definitions))] = None
    if not found and _DYNAMIC_TYPE.search(stablehlo):  # of an argument
        found[Problem("dynamic shape", "argument", "")] = None
    return list(found)


def _kind(operation: str, line: str) -> tuple[str, str]:
    """Returns the kind of problem that an operation is, or "", and its name."""
    dialect, _, short = operation.partition(".")
    if short == "custom_call":
        target = _CALLED.search(line)
        called = next(filter(None, target.groups())) if target else operation
        return ("" if called in _LOWERED_BY_COMPILERS else "custom call"), called
    if short in _HOST:
        return "host operation", operation
    is_dynamic = "dynamic" in short or short in ("set_dimension_size", "get_dimension_size")
    if (is_dynamic and operation not in _ALLOWED_DYNAMIC) or dialect in ("shape", "tensor"):
        return "dynamic shape", operation
    if _DYNAMIC_TYPE.search(line):
        return "dynamic shape", operation
    return "", operation


def _name(line: str, definitions: Mapping[str, str]) -> str:
    """Returns the name that TensorFlow gave the operation, from the locations of the module."""
    match = _LOCATION.search(line.rstrip())
    content = definitions.get(match[1], "") if match else ""
    for _ in range(8):  # locations refer to others
        if named := _NAME.search(content):
            return named[1]
        further = re.search(r"#loc\d*", content)
        if not further:
            return ""
        content = definitions.get(further[0], "")
    return ""

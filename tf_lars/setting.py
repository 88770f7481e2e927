"""Settings as dataclass fields that carry their documentation, range and use.

A setting is declared once, as a field made by `setting`; flags, checks, `--help`, the identity of a
run and whatever else depends on the setting are derived from that field:

    @dataclasses.dataclass(frozen=True)
    class MySettings:
        epochs: int = setting("Passes over the training data.", 90, rule=within(1, 1000))
"""

import dataclasses
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tf_lars.errors import require

MOST_EPOCHS = 1_000_000
LARGEST_IMAGE_SIZE = 8192
"""Side of the largest images, in pixels; each has 200 MB."""
LARGEST_RATE = 1_000_000
"""Largest learning rate; published ones of LARS are below 50."""

_KEY = "setting"


class Rule(NamedTuple):
    """A range of values.

    Attributes:
      words: Completes the sentence "--name must be ...".
      holds: Returns whether a value is in the range.
    """

    words: str
    holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Metadata of a setting besides its name, type and default.

    Attributes:
      doc: One or two sentences about its effect, shown by `--help`.
      rule: Range of its values, or of the entries of a tuple; None allows any value. A value of
        None stands for a setting that is not given, and is always in range.
      group: Heading in `--help`.
      identifies_run: Whether a run may resume only from a checkpoint with the same value.
      hosts_may_differ: Whether workers may have different values.
      set_by_recipe: Whether `--recipe` sets it, from the attribute of `Recipe` of the same name.
      extension_may_change: Whether `--extend` may change it, although it identifies the run.
      evaluation_may_override: Whether `launch.evaluate` has a flag for it.
      repeatable: Whether the flag of a tuple is given once per entry, rather than once with commas.
    """

    doc: str
    rule: Rule | None = None
    group: str = "Settings"
    identifies_run: bool = True
    hosts_may_differ: bool = False
    set_by_recipe: bool = False
    extension_may_change: bool = False
    evaluation_may_override: bool = False
    repeatable: bool = False


def setting(doc: str, default: Any = dataclasses.MISSING, **uses: Any) -> Any:
    """Returns a dataclass field for a setting; `uses` are the attributes of `Setting`."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(doc, **uses)})


def settings_of(cls: Any) -> Mapping[str, Setting]:
    """Returns the settings of a dataclass, or of an instance, by name and in order."""
    return {
        field.name: field.metadata[_KEY]
        for field in dataclasses.fields(cls)
        if _KEY in field.metadata
    }


def names_where(cls: Any, use: str) -> tuple[str, ...]:
    """Returns the names of the settings with a use, an attribute of `Setting` that is true."""
    return tuple(name for name, one in settings_of(cls).items() if getattr(one, use))


def defaults(cls: Any) -> Mapping[str, Any]:
    """Returns the defaults of the settings that have one, by name."""
    fields = dataclasses.fields(cls)
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def kinds(cls: type) -> Mapping[str, tuple[Any, ...]]:
    """Returns the types that the value of each field may have, `type(None)` included."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: typing.get_args(hints[field.name])
        if isinstance(hints[field.name], types.UnionType)
        else (hints[field.name],)
        for field in dataclasses.fields(cls)
    }


def parse(text: str, allowed: tuple[Any, ...]) -> Any:
    """Returns the value that a text stands for, of the first type that accepts it.

    Args:
      text: Text such as "3", "0.5", "True", "auto" or, for a tuple, "1,2,3".
      allowed: Types, as `kinds` returns them.

    Raises:
      ValueError: No type accepts the text.
    """
    for kind in allowed:
        if kind is types.NoneType:
            continue
        try:
            if kind is bool:
                return {"True": True, "False": False}[text]
            if typing.get_origin(kind) is tuple:
                entry = typing.get_args(kind)[0]
                return tuple(entry(part.strip()) for part in text.split(",") if part.strip())
            return kind(text)
        except (KeyError, ValueError):
            continue
    raise ValueError(f"{text!r} is not a value of {' or '.join(map(str, allowed))}")


def as_arguments(settings: Any) -> list[str]:
    """Returns the command-line arguments that give the values of a dataclass."""
    return [
        f"--{name}={as_text(value)}"
        for name, value in dataclasses.asdict(settings).items()
        if value is not None
    ]


def as_text(value: Any) -> str:
    """Returns the text that `parse` turns into a value."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check(settings: Any) -> None:
    """Checks that all settings of a dataclass instance are in their ranges.

    Raises:
      InputError: A setting is out of range; the message names its flag.
    """
    for name, described in settings_of(settings).items():
        value = getattr(settings, name)
        if described.rule is None or value is None:
            continue
        for entry in value if isinstance(value, tuple) else (value,):
            require(described.rule.holds(entry), f"--{name}", described.rule.words, entry)


def number(what: str, value: Any, rule: Rule) -> float:
    """Returns a function's argument as a Python float.

    Args:
      what: Name of the argument as in "`momentum`".
      value: Number of any library, such as `numpy.float32`, but no bool.
      rule: Range of the argument.

    Raises:
      InputError: The value is not a number in the range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(is_number, what, "a number", value)
    try:
        converted = float(value)
    except OverflowError:  # an int of hundreds of digits
        converted = math.inf
    require(rule.holds(converted), what, rule.words, value)
    return converted


def whole_number(what: str, value: Any, rule: Rule) -> int:
    """Returns a function's argument as a Python int; see `number`, but fractions are refused."""
    require(number(what, value, rule).is_integer(), what, "a whole number", value)
    return int(value)


def flag(what: str, value: Any) -> bool:
    """Returns a function's argument as a Python bool.

    Raises:
      InputError: The value is neither a bool nor NumPy's.
    """
    require(type(value).__name__ in ("bool", "bool_"), what, "True or False", value)
    return bool(value)


def at_least(low: float) -> Rule:
    """Returns the range from a bound upwards, for the arguments of functions.

    A setting of a program has both bounds, `within`: what no run can need is then refused before it
    is tried.
    """
    words = f"{_text(low)} or above" if low == 0 else f"at least {_text(low)}"
    return Rule(words, lambda value: low <= value < math.inf)


def above(low: float, high: float = math.inf) -> Rule:
    """Returns the range above one bound and up to another, which is included."""
    words = f"above {_text(low)}"
    if high < math.inf:
        words += f" and at most {_text(high)}"
    return Rule(words, lambda value: low < value <= high and value < math.inf)


def within(low: float, high: float) -> Rule:
    """Returns the range between two bounds, both included."""
    words = f"from {_text(low)} to {_text(high)}"
    return Rule(words, lambda value: low <= value <= high)


def _text(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def below_one() -> Rule:
    """Returns the range from 0 to 1, without 1."""
    return Rule("at least 0 and below 1", lambda value: 0 <= value < 1)


def fraction() -> Rule:
    """Returns the range from 0 to 1, without 0."""
    return Rule("above 0 and at most 1", lambda value: 0 < value <= 1)


def seed() -> Rule:
    """Returns the range of seeds that NumPy and Keras accept."""
    return Rule("at least 0 and below 2**32", lambda value: 0 <= value < 2**32)


def epochs() -> Rule:
    """Returns the range of numbers of epochs."""
    return within(1, MOST_EPOCHS)


def batch_size() -> Rule:
    """Returns the range of batches; the largest published one is 67,840."""
    return within(1, 10_000_000)


def image_size() -> Rule:
    """Returns the range of sides of images, in pixels."""
    return within(1, LARGEST_IMAGE_SIZE)


def positive_rate() -> Rule:
    """Returns the range of learning rates."""
    return above(0, LARGEST_RATE)


def rate() -> Rule:
    """Returns the range of learning rates, and of factors on them, that may be 0."""
    return within(0, LARGEST_RATE)


def restarts() -> Rule:
    """Returns the range of numbers of restarts."""
    return within(0, 1_000_000)


def local_processes() -> Rule:
    """Returns the range of numbers of worker processes on one machine."""
    return within(1, 256)


def seconds_to_wait() -> Rule:
    """Returns the range of time limits, up to a week."""
    return above(0, 7 * 24 * 3600)


def picture() -> Rule:
    """Returns the paths at which a picture can be written, or "" for none."""
    return Rule(
        "a .png file in an existing folder",
        lambda path: (
            not path
            or (
                path.endswith(".png")
                and not os.path.isdir(path)
                and os.path.isdir(os.path.dirname(path) or ".")
            )
        ),
    )


def one_of(*names: str) -> Rule:
    """Returns the choice between some names."""
    words = " or ".join(names) if len(names) == 2 else f"one of {', '.join(names)}"
    return Rule(words, lambda value: value in names)

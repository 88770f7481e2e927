"""Defines absl flags from a table of settings, and reads their values back."""

import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from tf_lars import setting as table
from tf_lars.errors import InputError

_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(cls: type, names: Iterable[str] | None = None, *, unset: str | None = None) -> None:
    """Defines a flag for each setting of a dataclass, under the heading of its group.

    Args:
      cls: Dataclass whose fields are made by `tf_lars.setting.setting`.
      names: Names of the settings; by default all of them.
      unset: Sentence for `--help` on what a flag that is not given means. None gives each flag the
        default of its setting instead.
    """
    kinds = table.kinds(cls)
    defaults = {} if unset else table.defaults(cls)
    for name, described in table.settings_of(cls).items():
        if names is not None and name not in names:
            continue
        if described.repeatable:  # absl adds to the text that the flag may be repeated
            flags.DEFINE_multi_string(name, [], described.doc, module_name=described.group)
            continue
        kind, *others = [one for one in kinds[name] if one is not types.NoneType]
        # A setting that may be a number or a word is parsed later, like a tuple.
        define_flag = _DEFINE.get(str if others else kind, flags.DEFINE_string)
        text = described.doc if unset is None else f"{described.doc} {unset}"
        if define_flag is flags.DEFINE_string and kind is not str and not others:
            text = f"{text} Separated by commas."
        default = defaults.get(name)
        if isinstance(default, tuple):
            default = table.as_text(default)
        define_flag(name, default, text, module_name=described.group)


def values(cls: type) -> dict[str, Any]:
    """Returns the values of a dataclass's flags by name, omitting flags that are not set.

    Raises:
      InputError: If a text is not a value of its setting.
    """
    found = {}
    for name, allowed in table.kinds(cls).items():
        value = flags.FLAGS[name].value if name in flags.FLAGS else None
        if value is None:
            continue
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str):
            try:
                value = table.parse(value, allowed)
            except ValueError as error:
                raise InputError(
                    f"--{name} must be numbers separated by commas. Received: {value!r}."
                ) from error
        found[name] = _without_tilde(value)
    return found


def _without_tilde(value: Any) -> Any:
    """Returns a value with the home folder that `~` stands for at the start of texts.

    Shells leave it in place in `--flag=~/folder`, and a folder of that name would be created.
    """
    if isinstance(value, tuple):
        return tuple(map(_without_tilde, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


def given(names: Iterable[str]) -> list[str]:
    """Returns the names of those flags that the user has given."""
    return [name for name in names if name in flags.FLAGS and flags.FLAGS[name].present]


def help_text() -> str:
    """Returns all flags of the program, with defaults and documentation, grouped by heading."""
    lines = []
    for module, members in flags.FLAGS.flags_by_module_dict().items():
        if not members or "absl" in module:
            continue
        heading = "Program" if module == sys.argv[0] else module
        lines.append(f"\n{heading}:")
        for flag in members:
            name = f"[no]{flag.name}" if flag.boolean else flag.name
            default = "" if flag.default in (None, "", []) else f" (default: {flag.default})"
            lines.append(f"  --{name}")
            lines.append(flags.text_wrap(f"{flag.help}{default}", length=96, indent="      "))
    return "\n".join(lines)

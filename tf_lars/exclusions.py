"""Which variables an optimizer excludes from weight decay or from layer adaptation."""

import dataclasses
import re

from tf_lars.errors import InputError
from tf_lars.variables import variable_path


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """A rule that says for each variable whether it is excluded.

    Args:
        argument: the name of the optimizer's argument, for messages.
        patterns: regular expressions, searched for in a variable's path; an empty list excludes
            nothing; None excludes every variable of rank 1 or less (bias, gamma, beta).
        more_patterns: regular expressions that exclude besides.
        paths: whole paths of variables that are excluded besides.

    Raises:
        InputError: `patterns` is no list of regular expressions.
    """

    argument: str
    patterns: tuple[str, ...] | None = None
    more_patterns: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "paths", tuple(self.paths))
        for field in ("patterns", "more_patterns"):
            patterns = getattr(self, field)
            if isinstance(patterns, str):
                raise InputError(
                    f"`{self.argument}` must be a list of regular expressions, or None. "
                    f"Received: {patterns!r}. Write [{patterns!r}]."
                )
            if patterns is not None:
                object.__setattr__(self, field, tuple(patterns))
        for pattern in self._all_patterns():
            _require_regular_expression(self.argument, pattern)

    def also(self, variables=(), patterns=()):
        """Returns these exclusions with some variables and patterns more."""
        return dataclasses.replace(
            self,
            more_patterns=(*self.more_patterns, *patterns),
            paths=(*self.paths, *(variable_path(v) for v in variables)),
        )

    def get_config(self):
        """Returns what `also` has added, as lists that JSON can hold."""
        return {"more_patterns": list(self.more_patterns), "paths": list(self.paths)}

    def _all_patterns(self):
        return (*(self.patterns or ()), *self.more_patterns)

    def resolve(self, variables):
        """Returns one boolean for each variable: whether it is excluded.

        Raises:
            InputError: a pattern or a path that matches no variable, or a path that several
                variables share.
        """
        paths = [variable_path(v) for v in variables]
        for pattern in self._all_patterns():
            if not any(re.search(pattern, path) for path in paths):
                raise InputError(
                    f"Every pattern in `{self.argument}` must match a variable. "
                    f"Received: {pattern!r}, which matches none of {paths}."
                )
        named = [_the_one(self.argument, path, paths) for path in self.paths]
        return [
            path in named or self._excludes(path, len(v.shape))
            for path, v in zip(paths, variables, strict=True)
        ]

    def _excludes(self, path, rank):
        if any(re.search(pattern, path) for pattern in self._all_patterns()):
            return True
        return self.patterns is None and rank <= 1


def _the_one(argument, path, paths):
    """Returns the one of `paths` that `path` stands for.

    The name of a Sequential model that was not built when it was made leads its variables' paths,
    and is missing once the model is loaded from a file.
    """
    found = [p for p in paths if p == path]
    found = found or [p for p in paths if p.endswith(f"/{path}") or path.endswith(f"/{p}")]
    if len(found) != 1:
        raise InputError(
            f"A variable excluded by `{argument}` must be one that the optimizer updates, with a "
            f"path of its own. Received: {path!r}, which names {len(found)} of {paths}."
        )
    return found[0]


def _require_regular_expression(argument, pattern):
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(
            f"`{argument}` must hold regular expressions. Received: {pattern!r} ({error})."
        ) from error

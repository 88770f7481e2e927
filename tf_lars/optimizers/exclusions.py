"""Variables that an optimizer excludes from weight decay or from layer adaptation."""

import dataclasses
import re

from tf_lars.errors import InputError
from tf_lars.optimizers.variables import variable_path


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """Rule that determines which variables are excluded.

    Args:
        argument: Name of the optimizer's argument, for messages.
        patterns: Regular expressions searched for in a variable's path; an empty list excludes
            nothing; None excludes every variable of rank 1 or less (bias, gamma, beta).
        more_patterns: Additional regular expressions.
        paths: Complete paths of additional variables.

    Raises:
        InputError: If `patterns` is not a list of regular expressions.
    """

    argument: str
    patterns: tuple[str, ...] | None = None
    more_patterns: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "paths", tuple(self.paths))
        for field in ("patterns", "more_patterns"):
            if getattr(self, field) is not None:
                checked = _regular_expressions(self.argument, getattr(self, field))
                object.__setattr__(self, field, checked)

    def also(self, variables=(), patterns=()):
        """Returns these exclusions with additional variables and patterns."""
        patterns = _regular_expressions(self.argument, patterns)
        return dataclasses.replace(
            self,
            more_patterns=(*self.more_patterns, *patterns),
            paths=(*self.paths, *(variable_path(v) for v in variables)),
        )

    def get_config(self):
        """Returns the additions made by `also`, as lists that JSON can hold."""
        return {"more_patterns": list(self.more_patterns), "paths": list(self.paths)}

    def _all_patterns(self):
        return (*(self.patterns or ()), *self.more_patterns)

    def resolve(self, variables):
        """Returns one boolean for each variable: whether it is excluded.

        Raises:
            InputError: If a pattern or a path matches no variable, or several variables share a
                path.
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


class ExcludingOptimizer:
    """Mixin with the two lists of exclusions of LARS, for Keras 3 and for Keras 2.

    A class that mixes it in must have an attribute `built`.
    """

    built: bool
    _decay_exclusions: Exclusions
    _adaptation_exclusions: Exclusions

    def _set_exclusions(self, from_weight_decay, from_layer_adaptation):
        self._decay_exclusions = Exclusions("exclude_from_weight_decay", from_weight_decay)
        self._adaptation_exclusions = Exclusions(
            "exclude_from_layer_adaptation", from_layer_adaptation
        )

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from weight decay, in addition to the argument of the same name.

        Args:
            var_list: Variables to exclude.
            var_names: Regular expressions searched for in the variables' paths.

        Raises:
            InputError: If the optimizer is already built.
        """
        self._decay_exclusions = self._also(self._decay_exclusions, var_list, var_names)

    def exclude_from_layer_adaptation(self, var_list=None, var_names=None):
        """Excludes variables from adaptation, in addition to the argument of the same name.

        Args:
            var_list: Variables to exclude.
            var_names: Regular expressions searched for in the variables' paths.

        Raises:
            InputError: If the optimizer is already built.
        """
        self._adaptation_exclusions = self._also(self._adaptation_exclusions, var_list, var_names)

    def _also(self, exclusions, variables, patterns):
        if self.built:
            raise InputError(
                f"`{exclusions.argument}()` must be called before the optimizer is built. "
                "Received: a built optimizer. Call it before the first step."
            )
        return exclusions.also(variables or (), patterns or ())

    def _exclusions_config(self):
        """Returns the two arguments, and the additions made by the methods, if any."""
        both = (self._decay_exclusions, self._adaptation_exclusions)
        config = {e.argument: None if e.patterns is None else list(e.patterns) for e in both}
        if any(e.more_patterns or e.paths for e in both):
            config["more_exclusions"] = [e.get_config() for e in both]
        return config

    def _restore_exclusions(self, more_exclusions):
        decay, adaptation = more_exclusions
        self._decay_exclusions = dataclasses.replace(self._decay_exclusions, **decay)
        self._adaptation_exclusions = dataclasses.replace(self._adaptation_exclusions, **adaptation)


def _the_one(argument, path, paths):
    """Returns the only entry of `paths` that `path` refers to.

    If a Sequential model was not built when it was created, its name starts its variables' paths,
    but is missing once the model is loaded from a file.
    """
    found = [p for p in paths if p == path]
    found = found or [p for p in paths if p.endswith(f"/{path}") or path.endswith(f"/{p}")]
    if len(found) != 1:
        raise InputError(
            f"A variable excluded by `{argument}` must be updated by the optimizer and have a "
            f"unique path. Received: {path!r}, which matches {len(found)} of {paths}."
        )
    return found[0]


def _regular_expressions(argument, patterns):
    """Checks that patterns are regular expressions, and returns them as a tuple."""
    if isinstance(patterns, str):
        raise InputError(
            f"`{argument}` must be a list of regular expressions, or None. "
            f"Received: {patterns!r}. Write [{patterns!r}]."
        )
    patterns = tuple(patterns)
    try:
        for pattern in patterns:
            re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(
            f"`{argument}` must contain regular expressions. Received: {pattern!r} ({error})."
        ) from error
    return patterns

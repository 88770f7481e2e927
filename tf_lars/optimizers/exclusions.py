"""Which variables an optimizer excludes from weight decay or from layer adaptation."""

import dataclasses
import re

from tf_lars.errors import InputError
from tf_lars.optimizers.variables import variable_path


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
            if getattr(self, field) is not None:
                checked = _regular_expressions(self.argument, getattr(self, field))
                object.__setattr__(self, field, checked)

    def also(self, variables=(), patterns=()):
        """Returns these exclusions with some variables and patterns more."""
        patterns = _regular_expressions(self.argument, patterns)
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


class ExcludingOptimizer:
    """What LARS on Keras 3 and on Keras 2 share: its two lists of exclusions.

    A class that mixes it in has an attribute `built`.
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
        """Excludes variables from weight decay, besides those that the argument of this name does.

        Args:
            var_list: variables.
            var_names: regular expressions searched for in the variables' paths.

        Raises:
            InputError: the optimizer is built already.
        """
        self._decay_exclusions = self._also(self._decay_exclusions, var_list, var_names)

    def exclude_from_layer_adaptation(self, var_list=None, var_names=None):
        """Excludes variables from adaptation, besides those that the argument of this name does.

        Args:
            var_list: variables.
            var_names: regular expressions searched for in the variables' paths.

        Raises:
            InputError: the optimizer is built already.
        """
        self._adaptation_exclusions = self._also(self._adaptation_exclusions, var_list, var_names)

    def _also(self, exclusions, variables, patterns):
        if self.built:
            raise InputError(
                f"`{exclusions.argument}()` must come before the optimizer is built. "
                "Received: a built optimizer. Call it before the first step."
            )
        return exclusions.also(variables or (), patterns or ())

    def _exclusions_config(self):
        """Returns the two arguments, and what the methods added, if they did."""
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


def _regular_expressions(argument, patterns):
    """Returns the patterns as a tuple, once they are known to be regular expressions."""
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
            f"`{argument}` must hold regular expressions. Received: {pattern!r} ({error})."
        ) from error
    return patterns

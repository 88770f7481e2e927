"""Transfers weights from another model, for all layers that match by name and shapes."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from models.freezing import own_variables

if TYPE_CHECKING:
    import keras

Path = tuple[str, ...]
Shapes = tuple[tuple[int, ...], ...]
LISTED = 8
"""Largest number of layers that a table lists by name."""


class SourceLayer(NamedTuple):
    """A layer whose weights can be taken over.

    Attributes:
      path: Names from the outermost model, or from its first layer, to this layer.
      shapes: Shapes of its weights, in the order of Keras.
      read: Function that returns the weights.
    """

    path: Path
    shapes: Shapes
    read: Callable[[], Sequence[Any]]


class _Target(NamedTuple):
    """A layer with its own weights."""

    path: Path
    variables: list[Any]
    is_kept: bool

    @property
    def shapes(self) -> Shapes:
        return tuple(tuple(variable.shape) for variable in self.variables)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What was taken over, and what was not: the shapes of the weights of each layer.

    Attributes:
      loaded: Layers of the model that have the weights of the source.
      missing: Layers of the model that keep their own.
      unused: Layers of the source that the model has no use for.
      reasons: Why the layers in `missing` are there.
    """

    loaded: Mapping[str, Shapes]
    missing: Mapping[str, Shapes]
    unused: Mapping[str, Shapes]
    reasons: Mapping[str, str]

    def table(self, source: str) -> str:
        """Returns the numbers of layers, variables and parameters, and the names of layers."""
        lines = [
            f"weights     of {source}",
            f"{'':<14}{'layers':>8}{'variables':>11}{'parameters':>14}",
            _row("loaded", self.loaded),
            _row("not loaded", self.missing),
            *_listed(f"{name}: {self.reasons[name]}" for name in self.missing),
            _row("not used", self.unused),
            *_listed(self.unused),
        ]
        return "\n".join(lines)


def layers_of_model(model: "keras.Model") -> list[SourceLayer]:
    """Returns the layers of a model as the source of weights."""

    def source(layer: _Target) -> SourceLayer:
        return SourceLayer(
            layer.path, layer.shapes, lambda: [variable.numpy() for variable in layer.variables]
        )

    return [source(layer) for layer in _targets(model, lambda layer: False)]


def transfer(
    model: "keras.Model",
    sources: Sequence[SourceLayer],
    keeps: "Callable[[keras.layers.Layer], bool]" = lambda layer: False,
) -> Transfer:
    """Assigns the weights of every layer for which a source of its name has the same shapes.

    A name that Keras has made, such as conv2d_7, counts by its place among those of its kind, since
    its number depends on how many models the program has built before. Of paths with different
    numbers of names, one may be the end of the other: a backbone is found in a model around it.

    Args:
      model: Built model.
      sources: Layers to take weights from.
      keeps: Function that returns whether a layer of the model keeps its own weights.
    """
    import keras

    from tf_lars.private_api import layers_of

    targets = _targets(model, keeps)
    classes = {type(layer) for layer in layers_of(model)}
    batch_norm = keras.layers.BatchNormalization
    if any(issubclass(kind, batch_norm) for kind in classes):
        classes.add(batch_norm)  # a layer that was turned into another kind keeps its name
    kinds = {_snake_case(kind.__name__) for kind in classes}
    ours, theirs = [t.path for t in targets], [s.path for s in sources]
    exact = _paired(ours, theirs)
    by_place = _paired(_by_place(ours, kinds), _by_place(theirs, kinds))

    def fitting(pairs: Mapping[int, int]) -> dict[int, int]:
        return {
            t: s
            for t, s in pairs.items()
            if targets[t].shapes == sources[s].shapes and not targets[t].is_kept
        }

    chosen = max(exact, by_place, key=lambda pairs: len(fitting(pairs)))  # the first on a tie
    loaded = fitting(chosen)
    for t, s in loaded.items():
        for variable, value in zip(targets[t].variables, sources[s].read(), strict=True):
            variable.assign(value)

    def reason(number: int) -> str:
        target = targets[number]
        if target.is_kept:
            return "belongs to the network, and is not learned"
        if number not in chosen:
            return "no layer of this name there"
        return f"{_text(target.shapes)} here, {_text(sources[chosen[number]].shapes)} there"

    missing = [number for number in range(len(targets)) if number not in loaded]
    unused = set(range(len(sources))) - set(loaded.values())
    return Transfer(
        {_name(targets[t]): targets[t].shapes for t in loaded},
        {_name(targets[t]): targets[t].shapes for t in missing},
        {_name(sources[s]): sources[s].shapes for s in sorted(unused)},
        {_name(targets[t]): reason(t) for t in missing},
    )


def _targets(model: "keras.Model", keeps: "Callable[[keras.layers.Layer], bool]") -> list[_Target]:
    """Returns the layers that have their own weights, by the paths of these."""
    from tf_lars.private_api import layers_of

    return [
        _Target(tuple(own[0].path.split("/")[:-1]), own, keeps(layer))
        for layer in layers_of(model)
        if (own := own_variables(layer))
    ]


def _name(layer: _Target | SourceLayer) -> str:
    return "/".join(layer.path)


def _text(shapes: Shapes) -> str:
    return " ".join(str(list(shape)) for shape in shapes)


def _row(kind: str, layers: Mapping[str, Shapes]) -> str:
    shapes = [shape for shapes in layers.values() for shape in shapes]
    parameters = sum(map(math.prod, shapes))
    return f"  {kind:<12}{len(layers):>8,}{len(shapes):>11,}{parameters:>14,}"


def _listed(names: Iterable[str]) -> list[str]:
    names = list(names)
    more = [f"and {len(names) - LISTED:,} more"] if len(names) > LISTED else []
    return [f"    {name}" for name in [*names[:LISTED], *more]]


def _paired(targets: Sequence[Path], sources: Sequence[Path]) -> dict[int, int]:
    """Returns the number of the source with the name of each target, if there is one for it alone.

    Equal paths come first, then sources that end in the target's path, then those in whose path
    the target ends.
    """
    by_path, by_end = collections.defaultdict(list), collections.defaultdict(list)
    for number, path in enumerate(sources):
        by_path[path].append(number)
        for start in range(len(path)):
            by_end[path[start:]].append(number)
    claims = collections.defaultdict(list)
    for number, path in enumerate(targets):
        ends = [by_path[path[start:]] for start in range(1, len(path)) if path[start:] in by_path]
        candidates = next((c for c in (by_path.get(path), by_end.get(path), *ends) if c), [])
        if len(candidates) == 1:
            claims[candidates[0]].append((path != sources[candidates[0]], number))
    pairs = {}
    for source, claimants in claims.items():
        best = [number for is_end, number in claimants if is_end == min(claimants)[0]]
        if len(best) == 1:
            pairs[best[0]] = source
    return pairs


def _by_place(paths: Sequence[Path], kinds: Collection[str]) -> list[Path]:
    """Returns paths in which names that Keras has made are numbered from 0 within their parent."""
    made = re.compile(rf"({'|'.join(map(re.escape, sorted(kinds)))})(?:_(\d+))?")
    numbers = collections.defaultdict(set)
    parts = [[made.fullmatch(name) for name in path] for path in paths]
    for path, matches in zip(paths, parts, strict=True):
        for depth, match in enumerate(matches):
            if match:
                numbers[path[:depth], match[1]].add(int(match[2] or 0))
    places = {key: {n: str(i) for i, n in enumerate(sorted(of))} for key, of in numbers.items()}
    return [
        tuple(
            f"{match[1]}#{places[path[:depth], match[1]][int(match[2] or 0)]}" if match else name
            for depth, (name, match) in enumerate(zip(path, matches, strict=True))
        )
        for path, matches in zip(paths, parts, strict=True)
    ]


def _snake_case(name: str) -> str:
    """Returns the name that Keras makes of that of a class: BatchNormalization, Conv2D."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()

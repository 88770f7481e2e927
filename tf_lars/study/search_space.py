"""Hyperparameters that a study tries: the same number of points, drawn alike for every optimizer.

Equal budgets are what makes a comparison of optimizers fair (Choi et al. 2019, arXiv:1910.05446;
Dahl et al. 2023, "Benchmarking Neural Network Training Algorithms", arXiv:2306.07179, section 4):
every optimizer gets the same number of trials, at the same points of the unit cube, which its own
ranges map to hyperparameters. All ranges of learning rates span a factor of 100, all logarithmic.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

from tf_lars.errors import InputError
from tf_lars.setting import positive_rate

TUNABLE = ("learning_rate", "momentum", "weight_decay")
"""Hyperparameters that a study can tune."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Hyperparameters of a trial.

    Attributes:
      learning_rate: Learning rate at the end of the warm-up.
      momentum: Momentum, beta_1 of Adam's relatives.
      weight_decay: L2 decay of LARS, SGD and Nesterov; decoupled decay of the others, which
        multiplies the learning rate (Loshchilov and Hutter 2019).
    """

    learning_rate: float
    momentum: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Space:
    """Range of each hyperparameter, both ends included.

    Attributes:
      learning_rate: Lowest and highest learning rate.
      weight_decay: Lowest and highest weight decay.
    """

    learning_rate: tuple[float, float]
    weight_decay: tuple[float, float]


MOMENTUM_DISTANCE = (0.02, 0.2)
"""Range of 1 - momentum, for all optimizers."""

_L2, _DECOUPLED = (2e-5, 2e-3), (2e-3, 0.2)
SPACES = {
    "lars": Space((1.0, 100.0), _L2),
    "sgd": Space((0.05, 5.0), _L2),
    "nesterov": Space((0.05, 5.0), _L2),
    "lamb": Space((0.003, 0.3), _DECOUPLED),
    "adamw": Space((5e-4, 0.05), _DECOUPLED),
    "muon": Space((5e-4, 0.05), _DECOUPLED),
}
"""Default ranges by the name of the optimizer.

That of LARS contains the published rates with a trust coefficient of 0.001, 7.4 to 33
(`tf_lars/recipes/published.csv`); that of SGD those of the linear rule for batches from 128 to
12,800 (Goyal et al. 2017); that of LAMB the rates of You et al. 2020 (arXiv:1904.00962) for
ResNet-50, 0.005 to 0.04; and those of AdamW and Muon Keras's default, 0.001.
"""


def unit_points(count: int, dimensions: int, seed: int) -> list[tuple[float, ...]]:
    """Returns quasi-random points of the unit cube, from a shifted additive recurrence.

    Point i is `(shift + i * alpha) mod 1` with alpha_j = phi**-j, where phi > 1 solves
    phi**(d + 1) = phi + 1: the golden ratio in one dimension. Every beginning of the sequence is
    spread evenly (Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences").

    Args:
      count: Number of points.
      dimensions: Number of dimensions, d.
      seed: Seed of the shift.
    """
    phi = 2.0
    for _ in range(60):  # converges by a factor of at least 2 each time
        phi = (1 + phi) ** (1 / (dimensions + 1))
    draw = random.Random(seed).random
    shift = [draw() for _ in range(dimensions)]
    return [
        tuple((start + i * phi ** -(j + 1)) % 1 for j, start in enumerate(shift))
        for i in range(count)
    ]


def points(
    space: Space, fixed: Point, tune: Sequence[str], count: int, seed: int
) -> tuple[Point, ...]:
    """Returns the hyperparameters to try, in order.

    Args:
      space: Ranges of the optimizer.
      fixed: Values of what is not tuned; its learning rate is ignored.
      tune: Names of what is tuned, of `TUNABLE`.
      count: Number of points.
      seed: Seed of the quasi-random sequence.
    """
    names = [name for name in TUNABLE if name in tune]
    ranges = {
        "learning_rate": space.learning_rate,
        "momentum": MOMENTUM_DISTANCE,
        "weight_decay": space.weight_decay,
    }
    found = []
    for unit in unit_points(count, len(names), seed):
        values = {name: _between(*ranges[name], u) for name, u in zip(names, unit, strict=True)}
        if "momentum" in values:
            values["momentum"] = rounded(1 - values["momentum"])
        found.append(dataclasses.replace(fixed, **values))
    return tuple(found)


def rounded(value: float) -> float:
    """Returns a value to four significant digits, which survives a round trip through text."""
    return float(f"{value:.4g}")


def _between(low: float, high: float, u: float) -> float:
    return rounded(math.exp(math.log(low) + u * math.log(high / low)))


def spaces_with(ranges: Sequence[str]) -> Mapping[str, Space]:
    """Returns `SPACES` with other ranges of learning rates.

    Args:
      ranges: Texts OPTIMIZER:LOWEST:HIGHEST, such as "lars:2.5:40".

    Raises:
      InputError: A text is not of this form.
    """
    found = dict(SPACES)
    for text in ranges:
        name, _, ends = text.partition(":")
        try:
            low, high = (float(end) for end in ends.split(":"))
        except ValueError:
            low = high = math.nan
        if name not in SPACES or not (low < high and all(map(positive_rate().holds, (low, high)))):
            raise InputError(
                "--learning_rate_ranges must be texts OPTIMIZER:LOWEST:HIGHEST, such as "
                f"lars:2.5:40, with an optimizer of {', '.join(SPACES)}. Received: {text!r}."
            )
        found[name] = dataclasses.replace(found[name], learning_rate=(low, high))
    return found

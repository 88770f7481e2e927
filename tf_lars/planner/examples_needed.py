"""The number of examples that a batch needs on your own data, from a run and its critical batch.

At a point of training with the critical batch B_crit, a batch of B needs

    E(B) = E_min (1 + B/B_crit)    examples, and
    S(B) = S_min (1 + B_crit/B)    steps

for the same progress, with E_min = B_crit S_min (McCandlish et al., "An Empirical Model of
Large-Batch Training", arXiv:1812.06162, section 2.3). So a run at B0 that needed
E0 examples needs E0 (1 + B/B_crit)/(1 + B0/B_crit) at B. Both assume that the learning rate is
tuned at each batch.

The critical batch grows over training (ibid., and Merrill et al., "Critical Batch Size Revisited",
arXiv:2505.23971: from near 0, fast at first). With phases i, in which the run at B0 saw E_i
examples and the critical batch was B_i,

    E(B) = sum_i E_i (1 + B/B_i) / (1 + B0/B_i) = A + S B
    A = sum_i E_i B_i / (B_i + B0)      examples of a very small batch, E_min
    S = sum_i E_i / (B_i + B0)          steps of a very large batch, S_min

which is again a line, E_min (1 + B/B_eff), with B_eff = A/S: the harmonic mean of the B_i, each
weighted by E_min of its phase. So the early phases with their small B_i count most.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from tf_lars.errors import InputError, require
from tf_lars.planner.critical_batch_file import CriticalBatchPoint
from tf_lars.setting import above, number

LAW_ERROR = 0.05
"""Relative error of E(B) for each doubling of the batch, even if the critical batches are exact.

The root mean square in eight predictions beside independent runs, on digits and imagenette
(docs/critical_batch.md).
"""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of training with one critical batch.

    Attributes:
      examples: Examples that the run saw in this phase, E_i.
      critical_batch: Estimate of the critical batch, B_i.
      low: Lower end of the interval that holds B_i with two chances in three: 0 where it is
        unbounded, None where the uncertainty is unknown.
      high: Upper end; infinity or None alike.
    """

    examples: float
    critical_batch: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        number("`examples`", self.examples, above(0))
        number("`critical_batch`", self.critical_batch, above(0))
        low, high = self.critical_batches
        require(
            low <= self.critical_batch <= high, "`critical_batch`", "in its interval", (low, high)
        )

    @property
    def critical_batches(self) -> tuple[float, float]:
        """The interval; the estimate itself at an end that is unknown."""
        return (
            self.critical_batch if self.low is None else self.low,
            self.critical_batch if self.high is None else self.high,
        )


@dataclasses.dataclass(frozen=True)
class _Line:
    """E(B) = A + S B, with A examples and S steps."""

    examples: float
    steps: float

    @classmethod
    def through(cls, batch: float, phases: Sequence[tuple[float, float]]) -> "_Line":
        """Returns the line of phases `(E_i, B_i)` of a run at a batch; B_i may be 0 or infinite."""
        small = [e if math.isinf(b) else e * b / (b + batch) for e, b in phases]
        return cls(math.fsum(small), math.fsum(e / (b + batch) for e, b in phases))

    @property
    def critical_batch(self) -> float:
        """B_eff = A/S, infinite for S = 0."""
        return self.examples / self.steps if self.steps else math.inf

    def __call__(self, batch: float) -> float:
        return self.examples + self.steps * batch


@dataclasses.dataclass(frozen=True)
class ExamplesNeeded:
    """The examples that a batch needs to the target, E(B), by a run and its critical batches.

    Attributes:
      batch: Global batch of the run, B0.
      phases: Phases of the run, whose examples add up to E0.

    Raises:
      InputError: The batch is not above 0, or there are no phases.
    """

    batch: float
    phases: tuple[Phase, ...]

    def __post_init__(self):
        number("`batch`", self.batch, above(0))
        require(self.phases, "`phases`", "at least one", self.phases)

    def __call__(self, global_batch_size: float) -> float:
        """Returns E(B) in examples."""
        return self._line()(global_batch_size)

    def interval(self, global_batch_size: float) -> tuple[float, float]:
        """Returns the ends of E(B), in examples, as the critical batches go through theirs.

        All phases are taken at the same end together: the method by which they were measured errs
        in the same direction in all of them, which is the wider of the two assumptions. The error
        of the law itself, `LAW_ERROR` for each doubling between the batches, is added in
        quadrature on each side. Where no uncertainty is known, both ends are E(B).
        """
        needed = self(global_batch_size)
        if not self.knows_its_error:
            return needed, needed
        ends = [self._line(side)(global_batch_size) for side in (0, 1)]
        own = LAW_ERROR * math.log2(global_batch_size / self.batch)
        down, up = (math.hypot(math.log(end / needed), own) for end in (min(ends), max(ends)))
        return needed * math.exp(-down), needed * math.exp(up)

    @property
    def critical_batch(self) -> float:
        """Effective critical batch of the whole run, B_eff."""
        return self._line().critical_batch

    @property
    def critical_batches(self) -> tuple[float, float]:
        """Interval of the effective critical batch, from 0 to infinity at the widest."""
        return self._line(0).critical_batch, self._line(1).critical_batch

    @property
    def knows_its_error(self) -> bool:
        """Whether the uncertainty of any phase is known."""
        return any(p.low is not None or p.high is not None for p in self.phases)

    def _line(self, side: int | None = None) -> _Line:
        return _Line.through(
            self.batch,
            [
                (p.examples, p.critical_batch if side is None else p.critical_batches[side])
                for p in self.phases
            ],
        )


def phases_of(points: Sequence[CriticalBatchPoint], examples: float) -> tuple[Phase, ...]:
    """Returns the phases of a run of E0 examples, from points of training.

    A point stands for the examples nearest to it: from midway after the point before to midway
    before the next. Points without a claim are left out, and so is whatever lies beyond the end of
    the run. Where only a bound is known, the bound stands for the estimate, and the interval is
    unbounded on its other side; between two bounds, their geometric mean does.

    Raises:
      InputError: No point makes a claim.
    """
    known = [point for point in points if point.is_known]
    if not known:
        raise InputError(
            "At least one point of training must have a critical batch or a bound of it. Received: "
            f"{len(points)} points without. Measure more or larger batches, or give a number."
        )
    at = [point.examples for point in known]
    ends = [min(examples, (a + b) / 2) for a, b in itertools.pairwise(at)]
    return tuple(
        _phase(point, end - start)
        for point, start, end in zip(known, [0.0, *ends], [*ends, examples], strict=True)
        if end > start
    )


def _phase(point: CriticalBatchPoint, examples: float) -> Phase:
    estimate, low, high = point.critical_batch, point.low, point.high
    if estimate is None and low is not None and high is not None:
        estimate = math.sqrt(low * high)
    if estimate is None:
        estimate = low if low is not None else high
        assert estimate is not None
    elif low is None and high is None:
        return Phase(examples, estimate)
    return Phase(
        examples, estimate, 0.0 if low is None else low, math.inf if high is None else high
    )

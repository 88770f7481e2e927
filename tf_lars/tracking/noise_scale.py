"""Gradient noise scale and AdaScale's gain, from the norms of the gradients of parts of a batch.

The global batch B consists of N parts of b = B/N examples each. With the mean gradients g_i of the
parts and g of the whole,

    |G|^2    = (B |g|^2 - b mean|g_i|^2) / (B - b)
    tr(S)    = (mean|g_i|^2 - |g|^2) / (1/b - 1/B)
    B_simple = EMA(tr(S)) / EMA(|G|^2)

estimate without bias the squared norm of the true gradient and the trace of the covariance of the
gradients of single examples. B_simple is the batch at which noise and signal contribute equally to
a step (McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162, appendix
A.1). With batch normalisation over a part, the parts are normalised separately, and the estimate is
that of this network.

AdaScale's gain (Johnson et al., "AdaScale SGD", arXiv:2007.05105, equation 4) is the factor by
which N times the batch shortens training at this point:

    s^2 = (mean|g_i|^2 - |g|^2) N / (N - 1)     variance of a part's gradient
    m^2 = |g|^2 - s^2 / N                       squared norm of the true gradient
    r   = (s^2 + m^2) / (s^2 / N + m^2)

It is 1 for identical gradients of the parts, and N for pure noise.
"""

import dataclasses
import math

from tf_lars.tracking.observation import PartNorms

DECAY = 0.99
"""Decay of the averages per step."""

STANDARD_ERRORS = 2.0
"""|G|^2 must be as many standard errors above 0 for the noise scale to be reported."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimates at a point of training.

    Attributes:
      scale: B_simple in examples; None while |G|^2 does not exceed its own noise.
      trace: tr(S), debiased average.
      gradient_squared: |G|^2, debiased average; it may be negative.
      adascale_gain: r, from 1 to N; None as `scale`.
    """

    scale: float | None
    trace: float
    gradient_squared: float
    adascale_gain: float | None


def trace(whole: float, mean_of_parts: float, batch: int, parts: int) -> float:
    """Returns the estimate of tr(S) from |g|^2 and mean|g_i|^2."""
    return (mean_of_parts - whole) / (parts / batch - 1 / batch)


def gradient_squared(whole: float, mean_of_parts: float, parts: int) -> float:
    """Returns the estimate of |G|^2 from |g|^2 and mean|g_i|^2."""
    return (parts * whole - mean_of_parts) / (parts - 1)


def adascale_gain(whole: float, mean_of_parts: float, parts: int) -> float:
    """Returns r from |g|^2 and mean|g_i|^2, within its range from 1 to N."""
    variance = max((mean_of_parts - whole) * parts / (parts - 1), 0.0)
    squared = max(whole - variance / parts, 0.0)
    if variance + squared == 0:
        return 1.0
    return (variance + squared) / (variance / parts + squared)


@dataclasses.dataclass
class NoiseScale:
    """Running estimate over the steps of a run.

    Attributes:
      decay: Decay of the averages per step.
      weight: Sum of the weights of all steps so far, which debiases the averages.
      whole: Decaying sum of |g|^2.
      mean_of_parts: Decaying sum of mean|g_i|^2.
      variance: Variance of the average of |G|^2 before debiasing.
      batch: B of the sums, in examples; 0 if it is not known.
      parts: N of the sums.
    """

    decay: float = DECAY
    weight: float = 0.0
    whole: float = 0.0
    mean_of_parts: float = 0.0
    variance: float = 0.0
    batch: int = 0
    parts: int = 0

    def follow(self, batch: int, parts: int) -> None:
        """Converts the sums to the batch and the parts of the next steps, if these are others.

        |g|^2 and mean|g_i|^2 depend on them, the estimates of |G|^2 and tr(S) do not.

        Args:
          batch: B, in examples.
          parts: N, at least 2.
        """
        if self.weight and self.batch and (self.batch, self.parts) != (batch, parts):
            traced = trace(self.whole, self.mean_of_parts, self.batch, self.parts)
            squared = gradient_squared(self.whole, self.mean_of_parts, self.parts)
            self.whole = squared + traced / batch
            self.mean_of_parts = squared + traced * parts / batch
        self.batch, self.parts = batch, parts

    def add(self, norms: PartNorms) -> None:
        """Adds the steps of a call of the loop; sums that are not finite are left out."""
        values = (norms.whole, norms.mean_of_parts)
        if not norms.steps or not all(map(math.isfinite, values)):
            return
        kept = self.decay**norms.steps
        new = 1 - kept
        own = gradient_squared(norms.whole / new, norms.mean_of_parts / new, norms.parts)
        before = 0.0
        if self.weight:
            before = gradient_squared(
                self.whole / self.weight, self.mean_of_parts / self.weight, norms.parts
            )
        # The deviation from the average so far estimates the variance of the new value.
        self.variance = kept**2 * self.variance + (new * (own - before)) ** 2
        self.weight = kept * self.weight + new
        self.whole = kept * self.whole + norms.whole
        self.mean_of_parts = kept * self.mean_of_parts + norms.mean_of_parts

    def estimate(self, batch: int, parts: int) -> Estimate | None:
        """Returns the estimates for a global batch of some parts; None before any step.

        Args:
          batch: B, in examples.
          parts: N, at least 2.
        """
        if not self.weight:
            return None
        whole, mean = self.whole / self.weight, self.mean_of_parts / self.weight
        traced = trace(whole, mean, batch, parts)
        squared = gradient_squared(whole, mean, parts)
        error = math.sqrt(self.variance) / self.weight
        if squared <= STANDARD_ERRORS * error:
            return Estimate(None, traced, squared, None)
        return Estimate(
            max(traced, 0.0) / squared, traced, squared, adascale_gain(whole, mean, parts)
        )

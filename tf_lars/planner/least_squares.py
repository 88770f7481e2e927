"""Non-linear least squares for a few parameters, in NumPy only."""

from collections.abc import Callable

import numpy as np


def solve(
    residuals: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    *,
    lower: np.ndarray | float = -np.inf,
    robust: int = 0,
    threshold: float = 3.0,
    iterations: int = 200,
) -> np.ndarray:
    """Returns the x, `[k]`, that minimises sum(rho(r_i(x))), by the Levenberg-Marquardt method.

    rho(r) is r**2 / 2. For the first `robust` residuals it grows linearly beyond `threshold`
    (Huber), so that a few outliers do not distort the fit. A Gaussian prior on a parameter is an
    additional residual, (x - mean) / deviation.

    Args:
      residuals: Function from parameters `[k]` to residuals `[n]`, in standard deviations.
      start: Parameters at the start, `[k]`.
      lower: Lower bounds of the parameters, `[k]` or one for all.
      robust: Number of leading residuals with the robust loss.
      threshold: Size, in standard deviations, beyond which the robust loss is linear.
      iterations: Maximum number of steps.
    """
    x = np.maximum(np.array(start, float), lower)
    residuals = _quietly(residuals)
    r = residuals(x)
    damping = 1e-3
    for _ in range(iterations):
        jacobian = _jacobian(residuals, x, r)
        weights = _weights(r, robust, threshold)
        curvature = jacobian.T @ (weights[:, None] * jacobian)
        slope = jacobian.T @ (weights * r)
        # A parameter at its bound stays there while the slope presses it against the bound.
        free = np.flatnonzero((x > lower) | (slope < 0))
        diagonal = np.diag(np.diag(curvature))
        while True:
            damped = (curvature + damping * diagonal)[np.ix_(free, free)]
            moved = x.copy()
            moved[free] -= np.linalg.solve(damped, slope[free])
            moved = np.maximum(moved, lower)
            candidate = residuals(moved)
            if _cost(candidate, robust, threshold) <= _cost(r, robust, threshold):
                damping = max(damping / 10, 1e-12)
                break
            damping *= 10
            if damping > 1e9:  # No step goes downhill: this is the minimum, up to rounding.
                return x
        done = np.abs(moved - x).max() < 1e-8
        x, r = moved, candidate
        if done:
            break
    return x


def covariance(
    residuals: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    *,
    robust: int = 0,
    threshold: float = 3.0,
) -> np.ndarray:
    """Returns the covariance of the parameters at a minimum, `[k, k]`.

    It is the inverse of the curvature, which assumes residuals in units of their standard
    deviations.
    """
    r = residuals(x)
    jacobian = _jacobian(residuals, x, r)
    curvature = jacobian.T @ (_weights(r, robust, threshold)[:, None] * jacobian)
    return np.linalg.pinv(curvature)


def _quietly(residuals):
    """Returns the function without warnings; NaN, where a step goes too far, becomes infinity."""

    def quiet(x):
        with np.errstate(all="ignore"):
            return np.nan_to_num(residuals(x), nan=np.inf)

    return quiet


def _jacobian(residuals, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    columns = []
    for i in range(len(x)):
        width = 1e-6 * max(1.0, abs(x[i]))
        moved = x.copy()
        moved[i] += width
        columns.append((residuals(moved) - r) / width)
    return np.stack(columns, axis=1)


def _weights(r: np.ndarray, robust: int, threshold: float) -> np.ndarray:
    weights = np.ones(len(r))
    size = np.maximum(np.abs(r[:robust]), threshold)
    weights[:robust] = threshold / size
    return weights


def _cost(r: np.ndarray, robust: int, threshold: float) -> float:
    size = np.abs(r[:robust])
    huber = np.where(size <= threshold, size**2 / 2, threshold * (size - threshold / 2))
    return float(huber.sum() + (r[robust:] ** 2).sum() / 2)

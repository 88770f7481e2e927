"""Rules that scale a learning rate with the global batch."""

import math

from tf_lars.setting import above, at_least, number

LARS_FLAT_BATCH = 16384
"""Batch from which the published learning rates of LARS stay constant."""


def linear_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * batch_size / reference_batch_size.

    Args:
        learning_rate: Learning rate tuned at `reference_batch_size`.
        batch_size: Global batch to scale to.
        reference_batch_size: Global batch to scale from.

    Raises:
        InputError: A batch is not a number above 0, or the rate is not one of at least 0.

    Reference: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1.
    """
    return _scaled(learning_rate, _batch_ratio(batch_size, reference_batch_size))


def square_root_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * sqrt(batch_size / reference_batch_size).

    Args:
        learning_rate: Learning rate tuned at `reference_batch_size`.
        batch_size: Global batch to scale to.
        reference_batch_size: Global batch to scale from.

    Raises:
        InputError: A batch is not a number above 0, or the rate is not one of at least 0.

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
    arXiv:1404.5997, section 5.
    """
    return _scaled(learning_rate, math.sqrt(_batch_ratio(batch_size, reference_batch_size)))


def lars_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * sqrt(min(batch_size, 16384) / min(reference_batch_size, 16384)).

    The learning rates of LARS in MLPerf's reference convergence points grow roughly as the square
    root of the batch, from 7.4 at 1,632 to 17 at 8,192, and stay between 19 and 25 from 32,768 up.

    Args:
        learning_rate: Learning rate tuned at `reference_batch_size`.
        batch_size: Global batch to scale to.
        reference_batch_size: Global batch to scale from.

    Raises:
        InputError: A batch is not a number above 0, or the rate is not one of at least 0.

    Reference: mlperf-logging 4.1.68, rcps_resnet.json, rules 4.0.0 (tf_lars/recipes/published.csv).
    """
    ratio = _batch_ratio(batch_size, reference_batch_size, largest=LARS_FLAT_BATCH)
    return _scaled(learning_rate, math.sqrt(ratio))


def _scaled(learning_rate: float, ratio: float) -> float:
    return number("`learning_rate`", learning_rate, at_least(0)) * ratio


def _batch_ratio(
    batch_size: float, reference_batch_size: float, largest: float = math.inf
) -> float:
    batch = number("`batch_size`", batch_size, above(0))
    reference = number("`reference_batch_size`", reference_batch_size, above(0))
    return min(batch, largest) / min(reference, largest)

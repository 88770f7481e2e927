"""Rules that scale a learning rate with the global batch."""

import math

from tf_lars.errors import require

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
        InputError: A batch is not above 0.

    Reference: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1.
    """
    return learning_rate * _batch_ratio(batch_size, reference_batch_size)


def square_root_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * sqrt(batch_size / reference_batch_size).

    Args:
        learning_rate: Learning rate tuned at `reference_batch_size`.
        batch_size: Global batch to scale to.
        reference_batch_size: Global batch to scale from.

    Raises:
        InputError: A batch is not above 0.

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
    arXiv:1404.5997, section 5.
    """
    return learning_rate * math.sqrt(_batch_ratio(batch_size, reference_batch_size))


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
        InputError: A batch is not above 0.

    Reference: mlperf-logging 4.1.68, rcps_resnet.json, rules 4.0.0 (tf_lars/recipes/published.csv).
    """
    ratio = _batch_ratio(
        min(batch_size, LARS_FLAT_BATCH), min(reference_batch_size, LARS_FLAT_BATCH)
    )
    return learning_rate * math.sqrt(ratio)


def _batch_ratio(batch_size: float, reference_batch_size: float) -> float:
    require(batch_size > 0, "`batch_size`", "above 0", batch_size)
    require(reference_batch_size > 0, "`reference_batch_size`", "above 0", reference_batch_size)
    return batch_size / reference_batch_size

"""How a learning rate scales with the global batch."""

import math

from tf_lars.errors import InputError

LARS_FLAT_BATCH = 16384
"""From here on the published rates of LARS no longer grow with the batch."""


def linear_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * batch_size / reference_batch_size.

    Args:
        learning_rate: the rate that is right at `reference_batch_size`.
        batch_size: the global batch to scale to.
        reference_batch_size: 256 unless given.

    Reference: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1.
    """
    return learning_rate * _batch_ratio(batch_size, reference_batch_size)


def square_root_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * sqrt(batch_size / reference_batch_size).

    Args:
        learning_rate: the rate that is right at `reference_batch_size`.
        batch_size: the global batch to scale to.
        reference_batch_size: 256 unless given.

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
    arXiv:1404.5997, section 5.
    """
    return learning_rate * math.sqrt(_batch_ratio(batch_size, reference_batch_size))


def lars_scaling(
    learning_rate: float, batch_size: float, reference_batch_size: float = 256
) -> float:
    """Returns learning_rate * sqrt(min(batch_size, 16384) / min(reference_batch_size, 16384)).

    The rates of LARS in MLPerf's reference convergence points grow about as the square root of the
    batch, from 7.4 at 1,632 to 17 at 8,192, and stay between 19 and 25 from 32,768 on.

    Args:
        learning_rate: the rate that is right at `reference_batch_size`.
        batch_size: the global batch to scale to.
        reference_batch_size: 256 unless given.

    Reference: mlperf-logging 4.1.68, rcps_resnet.json, rules 4.0.0 (tf_lars/recipes/published.csv).
    """
    ratio = _batch_ratio(
        min(batch_size, LARS_FLAT_BATCH), min(reference_batch_size, LARS_FLAT_BATCH)
    )
    return learning_rate * math.sqrt(ratio)


def _batch_ratio(batch_size: float, reference_batch_size: float) -> float:
    if batch_size <= 0 or reference_batch_size <= 0:
        raise InputError(
            "Batch sizes must be above 0. "
            f"Received: batch_size={batch_size}, reference_batch_size={reference_batch_size}."
        )
    return batch_size / reference_batch_size

"""A noisy quadratic with three scales of curvature, whose expected losses are known."""

import numpy as np

# Three scales, in 64 directions each.
CURVATURES = np.repeat([1.0, 0.1, 0.01], 64)
NOISES = np.repeat([4.0, 1.0, 0.3], 64)
START = np.repeat([1.0, 2.0, 3.0], 64)
# With many divisors, so that the loss is known in closed form at many batches.
SMALLEST, RATE, EXAMPLES = 4, 0.02, 15_360
BATCHES = [SMALLEST * 2**i for i in range(8)]


def expected_losses(batch):
    """Returns the expected loss after each step of SGD at the linearly scaled rate."""
    rate = RATE * batch / SMALLEST
    moments, losses = START**2, []
    for _ in range(EXAMPLES // batch):
        moments = (1 - rate * CURVATURES) ** 2 * moments + rate**2 * NOISES**2 / batch
        losses.append(0.5 * CURVATURES @ moments)
    return np.array(losses)


def simulated_losses(random):
    """Returns the loss after each step of one repeat, by batch.

    All batches take the same examples in the same order.
    """
    noises = random.normal(size=(EXAMPLES, NOISES.size)) * NOISES
    found = {}
    for batch in BATCHES:
        rate, steps = RATE * batch / SMALLEST, EXAMPLES // batch
        theta, losses = START.copy(), []
        for noise in noises.reshape(steps, batch, -1).mean(axis=1):
            theta = theta - rate * (CURVATURES * theta + noise)
            losses.append(0.5 * CURVATURES @ theta**2)
        found[batch] = np.array(losses)
    return found


def at_end(losses):
    """Returns the mean over the last quarter of the examples."""
    return float(np.mean(losses[-max(1, len(losses) // 4) :]))


def blocks(losses, count=8):
    """Returns the means over parts of the examples that are as equal as can be."""
    return [float(part.mean()) for part in np.array_split(losses, count)]

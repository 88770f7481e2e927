"""Order of the examples in training and evaluation.

Training reads one endless stream. Stream position q belongs to epoch `q // N` (N examples) and
holds the example `permutation(seed, epoch)[q % N]`. Step t takes the positions
`[t * B, (t + 1) * B)` (B = global batch), and replica r of R takes the r-th of R equal slices of
them. A global batch is thus a function of (seed, t) alone: any number of workers trains on the same
batches, and a run resumes at any step without reading earlier examples. An epoch is always N
examples; the batch in which one epoch ends is filled up from the next.

Evaluation takes each example once, in stored order; the last batch is padded to its full size with
examples of weight 0.
"""

import math
from typing import TYPE_CHECKING

from tf_lars.data.autotune import without_autotune
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

CHUNK = 64
"""Number of examples whose positions are computed, and records read, in one call."""


def epoch_end_steps(num_examples: int, global_batch_size: int, epochs: int) -> list[int]:
    """Returns, for each epoch, the number of steps after which its last example has been used.

    `ceil(e * N / B)` for e = 1 ... epochs; the last entry is the length of the run in steps.
    """
    return [-(-epoch * num_examples // global_batch_size) for epoch in range(1, epochs + 1)]


def whole_epochs(step: int, num_examples: int, global_batch_size: int) -> int:
    """Returns the number of whole epochs completed after `step` steps."""
    return step * global_batch_size // num_examples


def per_replica_batch_size(global_batch_size: int, num_replicas: int) -> int:
    """Returns `global_batch_size / num_replicas`.

    Raises:
      InputError: The global batch is not positive or does not divide among the replicas.
    """
    if global_batch_size < 1 or global_batch_size % num_replicas:
        nearest = max(1, round(global_batch_size / num_replicas)) * num_replicas
        raise InputError(
            f"The global batch must be a positive multiple of the number of replicas. Received: "
            f"global_batch_size={global_batch_size} on {num_replicas} replicas. "
            f"The nearest multiple is {nearest}."
        )
    return global_batch_size // num_replicas


def num_micro_batches(share: int, micro_batch_size: int) -> int:
    """Returns the number of parts in which a replica processes its share of the global batch.

    Raises:
      InputError: The parts are not equal.
    """
    if share % micro_batch_size:
        raise InputError(
            f"micro_batch_size must divide the {share} examples of each replica. Received: "
            f"{micro_batch_size}."
        )
    return share // micro_batch_size


def check_batch_norm_group(
    group_size: int, *, share: int, replicas: int, micro_batch_size: int | None = None
) -> None:
    """Checks that batch normalisation can cut a global batch into groups of neighbours.

    A group is an equal part of what a replica processes at a time, or the share of several
    replicas, into which all replicas can be divided.

    Args:
      group_size: Number of examples that are normalised together.
      share: Number of examples of each replica.
      replicas: Number of replicas.
      micro_batch_size: Number of examples that a replica processes at a time; None for its share.

    Raises:
      InputError: The groups do not fit, or a group of several replicas meets micro-batches.
    """
    part = micro_batch_size or share
    divisors = [size for size in range(1, part + 1) if part % size == 0]
    if group_size in divisors:
        return
    if part < share and group_size > part:
        raise InputError(
            "A group of batch normalisation must fit into a micro-batch. Received: groups of "
            f"{group_size:,} examples and micro-batches of {part:,}. Use larger micro-batches or "
            "smaller groups."
        )
    of_several = [share * k for k in range(2, replicas + 1) if replicas % k == 0]
    if part == share and group_size in of_several:
        return
    rule = f"divide the {part:,} examples that each device processes at a time"
    if replicas > 1 and part == share:
        rule += f", or be a multiple of them that divides the {share * replicas:,} of all devices"
        divisors += of_several
    nearest = min(divisors, key=lambda size: abs(math.log(size / group_size)))
    raise InputError(
        f"A group of batch normalisation must {rule}. Received: groups of {group_size:,}. The "
        f"nearest is {nearest:,}."
    )


def training_positions(
    context: "tf.distribute.InputContext",
    *,
    num_examples: int,
    global_batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
) -> "tf.data.Dataset":
    """Returns the examples that one worker trains on in steps `[first_step, last_step)`, in order.

    Args:
      context: Number of this worker and of all workers.
      num_examples: Number of training examples, N.
      global_batch_size: Examples per step over all workers, B.
      seed: Seed of the permutations.
      first_step: First step.
      last_step: Step after the last one.

    Returns:
      A dataset of `(epoch, index)`, two int64 vectors of up to `CHUNK` examples.
    """
    import tensorflow as tf

    worker, share = _share(context, global_batch_size)
    start, stop = first_step * share, last_step * share

    def locate(chunk_start):
        mine = tf.range(chunk_start, tf.minimum(chunk_start + CHUNK, stop))
        step, place = mine // share, mine % share
        position = step * global_batch_size + worker * share + place
        epoch = position // num_examples
        return epoch, permute(position % num_examples, seed, epoch, num_examples)

    return _in_chunks(start, stop, locate)


def permute(place: "tf.Tensor", seed: int, epoch: "tf.Tensor", num_examples: int) -> "tf.Tensor":
    """Returns the examples at some places of the permutations of their epochs; all int64 `[n]`.

    A permutation is computed element by element and never held in memory.
    """
    import tensorflow as tf

    # tf.random.experimental.index_shuffle takes no seed per element and runs only 4 rounds of its
    # cipher, which at 100,000 examples leaves a correlation of 0.18 between two epochs.
    seeds = tf.stack([tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch, epoch], axis=1)
    return tf.raw_ops.RandomIndexShuffle(
        index=place, seed=seeds, max_index=tf.constant(num_examples - 1, tf.int64), rounds=16
    )


def evaluation_positions(
    context: "tf.distribute.InputContext", *, num_examples: int, global_batch_size: int
) -> "tf.data.Dataset":
    """Returns the examples that one worker evaluates, in order, padded to whole global batches.

    Args:
      context: Number of this worker and of all workers.
      num_examples: Number of examples, N.
      global_batch_size: Examples per step over all workers.

    Returns:
      A dataset of `(index, weight)`, an int64 and a float32 vector of up to `CHUNK` examples;
      weight 0 marks padding (and repeats example 0).
    """
    import tensorflow as tf

    worker, share = _share(context, global_batch_size)
    stop = evaluation_steps(num_examples, global_batch_size) * share

    def locate(chunk_start):
        mine = tf.range(chunk_start, tf.minimum(chunk_start + CHUNK, stop))
        position = mine // share * global_batch_size + worker * share + mine % share
        real = position < num_examples
        return tf.where(real, position, 0), tf.cast(real, tf.float32)

    return _in_chunks(0, stop, locate)


def fit_positions(
    context: "tf.distribute.InputContext",
    *,
    num_examples: int,
    global_batch_size: int,
    seed: int | None,
    first_step: int,
    last_step: int,
) -> "tf.data.Dataset":
    """Returns the examples of one worker where an epoch is a whole number of steps, as in Keras.

    The last global batch of an epoch is filled up with examples that do not count.

    Args:
      context: Number of this worker and of all workers.
      num_examples: Number of examples, N.
      global_batch_size: Examples per step over all workers, B.
      seed: Seed of the permutations; None for stored order.
      first_step: First step.
      last_step: Step after the last one.

    Returns:
      A dataset of `(index, real, fill)`, an int64 and two float32 vectors of up to `CHUNK`
      examples: the example, 1 if it counts or else 0, and the share of its batch that counts.
    """
    import tensorflow as tf

    worker, share = _share(context, global_batch_size)
    steps = evaluation_steps(num_examples, global_batch_size)
    stop = last_step * share

    def locate(chunk_start):
        mine = tf.range(chunk_start, tf.minimum(chunk_start + CHUNK, stop))
        step, place = mine // share, mine % share
        epoch, start = step // steps, step % steps * global_batch_size
        position = start + worker * share + place
        real = tf.minimum(tf.constant(global_batch_size, tf.int64), num_examples - start)
        index = start + (position - start) % real
        if seed is not None:
            index = permute(index, seed, epoch, num_examples)
        fill = tf.cast(real, tf.float32) / global_batch_size
        return index, tf.cast(position < num_examples, tf.float32), fill

    return _in_chunks(first_step * share, stop, locate)


def evaluation_steps(num_examples: int, global_batch_size: int) -> int:
    """Returns the number of global batches that hold every example once."""
    return -(-num_examples // global_batch_size)


def _in_chunks(start: int, stop: int, locate) -> "tf.data.Dataset":
    """Returns a dataset of `locate(start)` for each chunk of positions, the root of a pipeline."""
    import tensorflow as tf

    return without_autotune(tf.data.Dataset.range(start, stop, CHUNK).map(locate))


def _share(context: "tf.distribute.InputContext", global_batch_size: int) -> tuple[int, int]:
    """Returns the number of this worker, and the size of its part of a global batch."""
    return context.input_pipeline_id, global_batch_size // context.num_input_pipelines

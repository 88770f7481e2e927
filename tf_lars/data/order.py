"""Order of the examples in training and evaluation.

Training reads one endless stream. Stream position q belongs to epoch `q // N` (N examples) and
holds the example `permutation(seed, epoch)[q % N]`. Step t takes the positions
`[t * B, (t + 1) * B)` (B = global batch), and replica r of R takes the r-th of R equal slices of
them. A global batch is thus a function of (seed, t) alone: any number of workers trains on the same
batches, and a run resumes at any step without reading earlier examples. An epoch is always N
examples; the batch in which one epoch ends is filled up from the next.

With a schedule of batches, a phase of another B begins with the first step after the one in which
the epoch before ends, and continues the stream where that step has left it: see `Steps`.

Evaluation takes each example once, in stored order; the last batch is padded to its full size with
examples of weight 0.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tf_lars.data.autotune import without_autotune
from tf_lars.data.batch_schedule import BatchSizeSchedule, sizes_of
from tf_lars.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

CHUNK = 64
"""Number of examples whose positions are computed, and records read, in one call."""


class Phase(NamedTuple):
    """Steps of one batch size.

    Attributes:
      first_step: First of the steps, f.
      first_position: Stream position at which it begins, q.
      global_batch_size: Examples per step, B: step t begins at the position q + (t - f) B.
    """

    first_step: int
    first_position: int
    global_batch_size: int


@dataclasses.dataclass(frozen=True)
class Steps:
    """Which part of the stream each step takes, as a function of the step alone.

    Attributes:
      num_examples: Number of training examples, N.
      phases: Phases in order; the first begins with step 0 at position 0.
    """

    num_examples: int
    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, num_examples: int, global_batch_size: int | BatchSizeSchedule) -> "Steps":
        """Returns the steps of a run.

        A phase that a schedule begins with epoch e, from 0, begins with the first step that begins
        at or after the position e N. A phase without such a step, because a batch holds more than
        its epochs, is left out.
        """
        if not isinstance(global_batch_size, BatchSizeSchedule):
            return cls(num_examples, (Phase(0, 0, global_batch_size),))
        phases: list[Phase] = []
        for epoch, size in global_batch_size.starts:
            first, start = 0, 0
            if phases:
                before = phases[-1]
                left = max(epoch * num_examples - before.first_position, 0)
                steps = -(-left // before.global_batch_size)
                first = before.first_step + steps
                start = before.first_position + steps * before.global_batch_size
                if not steps:
                    phases.pop()
            phases.append(Phase(first, start, size))
        return cls(num_examples, tuple(phases))

    @functools.cached_property
    def _first_steps(self) -> tuple[int, ...]:
        return tuple(phase.first_step for phase in self.phases)

    @property
    def changes(self) -> tuple[int, ...]:
        """First step of each phase but the first."""
        return self._first_steps[1:]

    def phase(self, step: int) -> Phase:
        """Returns the phase of a step, counted from 0."""
        return self.phases[bisect.bisect_right(self._first_steps, step) - 1]

    def batch_size(self, step: int) -> int:
        """Returns the global batch of a step."""
        return self.phase(step).global_batch_size

    def position(self, step: int) -> int:
        """Returns the number of examples that were used before a step."""
        first_step, first_position, size = self.phase(step)
        return first_position + (step - first_step) * size

    def epoch(self, step: int) -> float:
        """Returns the number of passes over the data, with its fraction, before a step."""
        return self.position(step) / self.num_examples

    def epoch_ends(self, epochs: int) -> list[int]:
        """Returns, for each epoch, the number of steps after which its last example was used."""
        ends, index = [], 0
        for position in (epoch * self.num_examples for epoch in range(1, epochs + 1)):
            later = self.phases[index + 1 :]
            index += sum(phase.first_position < position for phase in later)
            first_step, first_position, size = self.phases[index]
            ends.append(first_step - (first_position - position) // size)
        return ends

    def after(self, step: int) -> "Steps":
        """Returns the steps from one on, which becomes step 0 at position 0."""
        here = Phase(step, self.position(step), self.batch_size(step))
        left = [here, *(phase for phase in self.phases if phase.first_step > step)]
        return Steps(
            self.num_examples,
            tuple(
                Phase(first - here.first_step, start - here.first_position, size)
                for first, start, size in left
            ),
        )


def equivalent_steps(taken: Steps, steps: int, global_batch_size: int) -> int:
    """Returns the number of steps of a fixed batch that use the examples of some steps."""
    return -(-taken.position(steps) // global_batch_size)


def epoch_end_steps(
    num_examples: int, global_batch_size: int | BatchSizeSchedule, epochs: int
) -> list[int]:
    """Returns, for each epoch, the number of steps after which its last example has been used.

    With a single batch, `ceil(e * N / B)` for e = 1 ... epochs; the last entry is the length of the
    run in steps.
    """
    return Steps.of(num_examples, global_batch_size).epoch_ends(epochs)


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


def shares(global_batch_size: int | BatchSizeSchedule, num_replicas: int) -> list[int]:
    """Returns a replica's share of each batch.

    Raises:
      InputError: A batch does not divide among the replicas.
    """
    return [per_replica_batch_size(size, num_replicas) for size in sizes_of(global_batch_size)]


def common_micro_batch(size: int | str | None, shares: Sequence[int]) -> int | str | None:
    """Returns the micro-batch for all batches of a schedule; None for a single batch in one part.

    Args:
      size: Size that was asked for: a number, "auto", or None for the default, which is a replica's
        whole share of the smallest batch: batch normalisation then normalises the same number of
        examples throughout.
      shares: A replica's share of each batch.

    Raises:
      InputError: The size does not divide a share.
    """
    if isinstance(size, str) or (size is None and len(set(shares)) == 1):
        return size
    if size is not None:
        for share in shares:
            num_micro_batches(share, size)
        return size
    smallest = min(shares)
    for share in shares:
        if share % smallest:
            raise InputError(
                "Each batch of a schedule must be a multiple of the smallest, a replica's share of "
                f"which is the micro-batch by default. Received: {share} examples of each replica, "
                f"and {smallest} in the smallest batch. Set the micro-batch size to a number that "
                f"divides them all, such as {math.gcd(*shares)}."
            )
    return smallest


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
    global_batch_size: int | BatchSizeSchedule,
    seed: int,
    first_step: int,
    last_step: int,
) -> "tf.data.Dataset":
    """Returns the examples that one worker trains on in steps `[first_step, last_step)`, in order.

    Args:
      context: Number of this worker and of all workers.
      num_examples: Number of training examples, N.
      global_batch_size: Examples per step over all workers, B, or a schedule of it.
      seed: Seed of the permutations.
      first_step: First step.
      last_step: Step after the last one, in the same phase of a schedule.

    Returns:
      A dataset of `(epoch, index)`, two int64 vectors of up to `CHUNK` examples.
    """
    import tensorflow as tf

    phase = Steps.of(num_examples, global_batch_size).phase(first_step)
    worker, share = _share(context, phase.global_batch_size)
    start, stop = first_step * share, last_step * share
    # Position of step 0, if all steps were of this phase.
    origin = phase.first_position - phase.first_step * phase.global_batch_size

    def locate(chunk_start):
        mine = tf.range(chunk_start, tf.minimum(chunk_start + CHUNK, stop))
        step, place = mine // share, mine % share
        position = origin + step * phase.global_batch_size + worker * share + place
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

    locate = tf.autograph.experimental.do_not_convert(locate)  # which would take seconds
    return without_autotune(tf.data.Dataset.range(start, stop, CHUNK).map(locate))


def _share(context: "tf.distribute.InputContext", global_batch_size: int) -> tuple[int, int]:
    """Returns the number of this worker, and the size of its part of a global batch."""
    return context.input_pipeline_id, global_batch_size // context.num_input_pipelines

"""Training data from a shard of Ray Data, for `Trainer.fit` and Keras's `fit`.

Ray gives each worker another shard, of the same number of rows, which are the worker's part of
every global batch. With B examples per global batch, W workers and N rows in the whole data set,
an epoch has N // B steps, in each of which every worker takes the next B / W rows of its shard;
the rows that are left over at the end of an epoch are not used in it. Ray Data decides which rows
are in which shard, and in which order.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_lars.data import order, pipeline_host
from tf_lars.data.fit_inputs.array_inputs import as_rows
from tf_lars.errors import InputError
from tf_lars.integrations.ray.ray_report import within_worker
from tf_lars.setting import at_least, batch_size, seed, whole_number

Columns = str | Sequence[str]


@dataclasses.dataclass(frozen=True, eq=False)
class RayTrainingInput:
    """Batches `(x, y)` of this worker's shard of a data set of Ray, for `Trainer.fit`.

    `for_keras()` returns them for Keras's `fit`. All workers must create it, at the same place: the
    first rows are read, for their shapes, and Ray starts each pass over its shards when all
    workers have asked for it.

    A run resumes at the beginning of an epoch. The examples that it then takes are those that an
    undisturbed run would have taken if Ray repeats rows and order in each pass: set
    `preserve_order` in the `ExecutionOptions` of Ray's `DataConfig`, and a seed for all that is
    random. The shuffle in the buffer is a function of `seed`, epoch and rank.

    Attributes:
      shard: Result of `ray.train.get_dataset_shard`.
      num_rows: Number of rows of the whole data set, from `Dataset.count()` in the program that
        starts the job.
      global_batch_size: Examples per optimizer step over all replicas.
      feature_columns: Column of the inputs, or columns for a dictionary of them.
      label_columns: The same for the targets.
      shuffle_buffer_size: Number of rows from among which this worker draws its next one; 0 takes
        them in Ray's order.
      seed: Seed of that shuffle.
      prefetch_batches: Batches that Ray fetches ahead.

    Raises:
      InputError: The shard is not one of this worker, holds no full batch, or lacks a column; the
        batch does not divide; or this is not a worker of Ray Train.
    """

    shard: Any
    num_rows: int
    global_batch_size: int
    feature_columns: Columns = "x"
    label_columns: Columns = "y"
    shuffle_buffer_size: int = 0
    seed: int = 0
    prefetch_batches: int = 2
    shape_changes: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self):
        whole_number("`global_batch_size`", self.global_batch_size, batch_size())
        whole_number("`num_rows`", self.num_rows, at_least(1))
        whole_number("`shuffle_buffer_size`", self.shuffle_buffer_size, at_least(0))
        whole_number("`seed`", self.seed, seed())
        context = within_worker()
        workers = context.get_world_size()
        parts = getattr(self.shard, "world_size", lambda: 1)()
        if parts != workers:
            raise InputError(
                "Each worker must train on its shard, one of as many as there are workers. "
                f"Received: {parts} part{'s' * (parts > 1)} for {workers} workers. Name "
                "the data set in datasets_to_split of Ray's DataConfig, as is its default."
            )
        if not self.steps:
            raise InputError(
                "An epoch must have at least one global batch. Received: "
                f"{self.num_rows} rows for a batch of {self.global_batch_size}. Lower the batch."
            )
        share = order.per_replica_batch_size(self.global_batch_size, workers)
        object.__setattr__(self, "_rank", context.get_world_rank())
        object.__setattr__(self, "_workers", workers)
        object.__setattr__(self, "first", next(self._batches(share, epoch=0, count=1)))

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        return self.num_rows // self.global_batch_size

    @property
    def num_examples(self) -> int:
        """Number of examples of an epoch."""
        return self.steps * self.global_batch_size

    def fingerprint(self) -> int:
        """Returns a number that is equal on workers with the same settings; shards differ."""
        columns = (self.feature_columns, self.label_columns)
        described = (self.num_rows, self.global_batch_size, self.shuffle_buffer_size, self.seed)
        return zlib.crc32(repr((columns, described)).encode())

    def dataset(
        self, context: tf.distribute.InputContext, first_step: int, last_step: int
    ) -> tf.data.Dataset:
        """Returns this worker's batches, one per replica, for steps `[first_step, last_step)`.

        After the last one, it repeats that one: all workers must ask Ray for the same number of
        passes, and what is read ahead must not begin another.
        """
        share = order.per_replica_batch_size(self.global_batch_size, context.num_replicas_in_sync)
        replicas = context.num_replicas_in_sync // context.num_input_pipelines

        def batches() -> Iterator[Any]:
            step, batch = first_step, None
            while step < last_step:
                epoch, within = divmod(step, self.steps)
                count = min(self.steps - within, last_step - step)
                read = self._batches(share, epoch=epoch, count=(within + count) * replicas)
                for place, batch in enumerate(read):
                    if place >= within * replicas:
                        yield batch
                step += count
            while batch is not None:
                yield batch

        return self._dataset(batches, share)

    def first_batch(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Returns this worker's parts of the first batch, which is kept."""
        share = order.per_replica_batch_size(self.global_batch_size, context.num_replicas_in_sync)
        first: Any = getattr(self, "first")  # noqa: B009
        return tf.data.Dataset.from_tensor_slices(first).batch(share, drop_remainder=True)

    def for_keras(self) -> tf.data.Dataset:
        """Returns the batches for Keras's `fit` under `create_strategy()`.

        TensorFlow divides each batch of the dataset among the W workers, so each of its batches
        has B rows of this worker's shard, for W steps. An epoch has a multiple of W steps, up to
        W - 1 fewer than `steps`. The order is that of the first epoch in every epoch.
        """
        rows = self.global_batch_size
        count = self.steps // self._workers
        if not count:
            raise InputError(
                "An epoch of Keras's fit must have a step for each worker. Received: "
                f"{self.steps} steps for {self._workers} workers. Lower the batch, or use Trainer."
            )
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        read = self._dataset(lambda: self._batches(rows, epoch=0, count=count), rows)
        # Keras counts batches before TensorFlow divides them. If it does not know how many there
        # are, it takes one step more at the end, of no examples.
        counted = read.apply(tf.data.experimental.assert_cardinality(count * self._workers))
        return counted.with_options(options)

    def _dataset(self, batches: Any, rows: int) -> tf.data.Dataset:
        pipeline_host.refuse_remote("a shard of Ray Data", "Run a worker of Ray on each of them.")
        first: Any = getattr(self, "first")  # noqa: B009
        spec = tf.nest.map_structure(
            lambda leaf: tf.TensorSpec([rows, *leaf.shape[1:]], leaf.dtype), first
        )
        return tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(2)

    def _batches(self, rows: int, *, epoch: int, count: int) -> Iterator[Any]:
        """Yields the first batches of a pass over the shard."""
        shuffle: dict[str, int] = {}
        if self.shuffle_buffer_size:
            # Draws of ranks and epochs must not be alike.
            key = np.random.SeedSequence([self.seed, epoch, self._rank]).generate_state(1)
            shuffle = {
                "local_shuffle_buffer_size": max(rows, self.shuffle_buffer_size),
                "local_shuffle_seed": int(key[0]),
            }
        read = 0
        for batch in self.shard.iter_batches(
            batch_size=rows,
            batch_format="numpy",
            drop_last=True,
            prefetch_batches=self.prefetch_batches,
            **shuffle,
        ):
            yield _element(batch, self.feature_columns, self.label_columns)
            read += 1
            if read == count:
                return
        raise InputError(
            f"A shard must hold {count} batches of {rows} rows, this worker's part of "
            f"{self.num_rows} rows in all. Received: {read}. Give num_rows=dataset.count() of the "
            "data set that is given to Ray, after all that removes rows."
        )

    # Set once by __post_init__.
    _rank: int = dataclasses.field(init=False, repr=False)
    _workers: int = dataclasses.field(init=False, repr=False)
    first: Any = dataclasses.field(init=False, repr=False)


def read_arrays(shard: Any, feature_columns: Columns = "x", label_columns: Columns = "y") -> Any:
    """Returns all rows that Ray gives this worker as arrays `(x, y)`, such as `validation_data`.

    Every worker must be given all rows in the same order: leave the data set out of
    `datasets_to_split` of Ray's `DataConfig`, and set `preserve_order` in its `ExecutionOptions`.
    `fit` then evaluates each example once, and refuses rows that differ between workers.

    Args:
      shard: Result of `ray.train.get_dataset_shard`.
      feature_columns: Column of the inputs, or columns for a dictionary of them.
      label_columns: The same for the targets.

    Raises:
      InputError: The shard is a part of the data or empty, or lacks a column.
    """
    parts = getattr(shard, "world_size", lambda: 1)()
    if parts > 1:
        raise InputError(
            "Data to evaluate must be given to every worker as a whole. Received: one of "
            f"{parts} parts. Leave it out of datasets_to_split of Ray's DataConfig."
        )
    batches = [
        _element(batch, feature_columns, label_columns)
        for batch in shard.iter_batches(batch_size=4096, batch_format="numpy")
    ]
    if not batches:
        raise InputError("Data to evaluate must hold rows. Received: none.")
    return tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *batches)


def _element(batch: dict[str, np.ndarray], features: Columns, labels: Columns) -> Any:
    """Returns `(x, y)` of a batch of columns; floats of 64 bits become Keras's floats."""

    def column(name: str) -> np.ndarray:
        if name not in batch:
            raise InputError(
                f"Columns must be those of the data set. Received: {name!r} instead of "
                f"{', '.join(batch)}. Correct feature_columns or label_columns."
            )
        values = batch[name]
        if values.dtype == object and not isinstance(values[0], str | bytes):
            raise InputError(
                "A column must hold numbers, texts, or arrays of one shape and type. Received: "
                f"{name!r} with {type(values[0]).__name__}. Convert it with Dataset.map_batches."
            )
        return values

    def chosen(columns: Columns) -> Any:
        if isinstance(columns, str):
            return column(columns)
        return {name: column(name) for name in columns}

    return as_rows((chosen(features), chosen(labels)))

"""One of two real workers: python -m tests.helpers.keras_fit_worker <folder>, with TF_CONFIG.

Runs stock `model.fit` in every way that test_keras_fit.py checks and writes the numbers to
<folder>/worker<rank>.npz.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer

from tests.helpers import keras_fit_cases as cases
from tests.helpers import keras_fit_models as models
from tests.helpers.keras_fit_refusals import refusal, refused
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.distribute import keras_fit
from tf_lars.distribute.strategy import create_strategy


def _stock_still_broken(strategy, rank):
    """Returns 1 for each of Keras's own functions that still fails, otherwise 0, by name."""
    pairs = tf.data.Dataset.from_tensor_slices(models.data()).batch(models.BATCH)
    network = models.model()

    def fails(attempt):
        try:
            attempt()
        except (ValueError, TypeError):
            return 1
        return 0

    def first_batch():
        iterator = keras_trainer.TFEpochIterator(x=pairs, distribute_strategy=strategy)
        keras_fit.stock["_maybe_symbolic_build"](network, iterator=iterator)

    def scalar():
        reduce = tf.function(
            lambda: keras_fit.stock["reduce_per_replica"](
                strategy.run(lambda: tf.constant(1.0)), strategy, "auto"
            )
        )
        reduce()

    def shuffled():
        iterator = object.__new__(keras_trainer.TFEpochIterator)
        tf.random.set_seed(rank)
        keras_fit.stock["__init__"](
            iterator, strategy, x=np.arange(64), batch_size=16, shuffle=True
        )
        rows = []
        for *_, batches in iterator:
            rows += strategy.gather(next(batches), axis=0).numpy().tolist()
        if sorted(rows) != list(range(64)):
            raise ValueError(rows)

    return {
        "_maybe_symbolic_build": fails(first_batch),
        "reduce_per_replica": fails(scalar),
        "order of arrays": fails(shuffled),
    }


def main():
    folder = pathlib.Path(sys.argv[1])
    rank = resolve_cluster().rank
    strategy = create_strategy()
    results = {}

    def keep(case, values):
        results.update({f"{case}|{name}": value for name, value in values.items()})

    if rank == 1:  # the other worker takes no part in it
        keep("outside", cases.outside())
    models.Joined.strategy = strategy
    keep("stock", _stock_still_broken(strategy, rank))
    for case, run in cases.EQUAL.items():
        keep(case, run())
    keep("examples seen", cases.examples_seen())
    keep("examples seen of a PyDataset", cases.examples_seen(of_dataset=True))
    keep("batch norm", cases.batch_norm())
    keep("half precision", cases.half_precision())
    keep("not a number", cases.not_a_number())
    keep("contrastive", cases.contrastive())
    keep("callbacks", cases.callbacks(folder, rank))
    backup = folder / "backup of all"
    cases.interrupted(backup)
    keep("resumed", cases.resumed(backup))
    keep("uninterrupted", cases.uninterrupted())
    for name, attempt in refused(folder, rank).items():
        keep("refused", {name: refusal(attempt)})
    np.savez(folder / f"worker{rank}.npz", **results)


if __name__ == "__main__":
    main()

"""Turns the arguments of Keras's `fit` and `evaluate` into data of this package."""

import types
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tf_lars.data.fit_inputs import batch_streams
from tf_lars.data.fit_inputs.array_inputs import FitArrays, as_rows
from tf_lars.errors import InputError, require

BATCH_SIZE = 32
"""Keras's default."""

_OF_BATCHES = (tf.data.Dataset, keras.utils.PyDataset, types.GeneratorType)


def training(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    class_weight: Mapping[int, float] | None = None,
    shuffle: bool = True,
    seed: int = 0,
) -> Any:
    """Returns training data: `x` itself if it is data of this package.

    Raises:
      InputError: An argument does not belong to this kind of data, or the data are refused.
    """
    _check_counts(batch_size=batch_size, steps_per_epoch=steps)
    if not _is_arrays(x, y=y, sample_weight=sample_weight, batch_size=batch_size):
        return _of_batches(x, steps, class_weight, shuffle=shuffle, seed=seed)
    arrays = FitArrays(
        as_rows(_given(x, y, sample_weight)),
        batch_size or BATCH_SIZE,
        shuffle=shuffle,
        seed=seed,
        class_weight=class_weight,
    )
    if steps is None or steps == arrays.steps:
        return arrays
    raise InputError(
        "Arrays are trained on in epochs of all their examples. Received: "
        f"steps_per_epoch={steps} instead of {arrays.steps}. Leave it out, or give a dataset."
    )


def evaluation(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Any:
    """Returns data to evaluate: `x` itself if it is data of this package.

    Raises:
      InputError: An argument does not belong to this kind of data, or the data are refused.
    """
    _check_counts(batch_size=batch_size, steps=steps)
    if not _is_arrays(x, y=y, sample_weight=sample_weight, batch_size=batch_size):
        return _of_batches(x, steps)
    rows = as_rows(_given(x, y, sample_weight))
    batch = batch_size or BATCH_SIZE
    if steps:
        rows = tf.nest.map_structure(lambda leaf: leaf[: steps * batch], rows)
    return FitArrays(rows, batch, shuffle=False)


def validation(data: Any, *, batch_size: int | None = None, steps: int | None = None) -> Any:
    """Returns the data of `validation_data`: a tuple as of `evaluate`, or any other source."""
    if data is None:
        return None
    if isinstance(data, tuple | list):
        if not 1 <= len(data) <= 3:
            raise InputError(
                "validation_data must be (x, y), (x, y, sample_weight) or a dataset. Received: "
                f"a {type(data).__name__} of {len(data)}."
            )
        return evaluation(*data, batch_size=batch_size, steps=steps)
    return evaluation(data, batch_size=batch_size if _is_arrays(data) else None, steps=steps)


def split(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[tuple, tuple]:
    """Returns the first examples of arrays, and the last `fraction` of them, as Keras does.

    Raises:
      InputError: The fraction is not between 0 and 1, or the data are not arrays.
    """
    require(0 < fraction < 1, "`validation_split`", "above 0 and below 1", fraction)
    if not _is_arrays(x):
        raise InputError(
            f"validation_split needs arrays. Received: {type(x).__name__}. Use validation_data."
        )
    rows = as_rows(_given(x, y, sample_weight))
    count = len(tf.nest.flatten(rows)[0])
    first = int(count * (1 - fraction))
    if not 0 < first < count:
        raise InputError(
            "validation_split must leave examples on both sides. Received: "
            f"{fraction:g} of {count} examples."
        )
    return (
        tf.nest.map_structure(lambda leaf: leaf[:first], rows),
        tf.nest.map_structure(lambda leaf: leaf[first:], rows),
    )


def _is_own(data: Any) -> bool:
    """Returns whether data are of this package, such as `image_input.TrainingInput`."""
    return hasattr(data, "dataset") and hasattr(data, "global_batch_size")


def _is_arrays(x: Any, **others: Any) -> bool:
    """Returns whether data are arrays, rather than a source of batches.

    Args:
      x: Data.
      **others: Arguments that only arrays may have.

    Raises:
      InputError: A source of batches has such an argument.
    """
    if not (_is_own(x) or isinstance(x, _OF_BATCHES)):
        return True
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(
            f"{' and '.join(given)} must be left out with {type(x).__name__}, whose batches hold "
            f"everything. Received: {', '.join(given)}."
        )
    return False


def _of_batches(
    x: Any,
    steps: int | None,
    class_weight: Mapping[int, float] | None = None,
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> Any:
    """Returns the stream of a source of batches; data of this package are returned as they are."""
    if _is_own(x):
        if steps is not None:
            raise InputError(
                f"{type(x).__name__} has its own number of steps. Received: {steps}. Leave it out."
            )
        return x
    if isinstance(x, tf.data.Dataset):
        return batch_streams.of_dataset(x, steps, class_weight)
    if isinstance(x, keras.utils.PyDataset):
        return batch_streams.of_py_dataset(x, steps, class_weight, shuffle=shuffle, seed=seed)
    return batch_streams.of_generator(x, steps, class_weight)


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(value is None or is_count, f"`{name}`", "at least 1", value)


def _given(x: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
    if x is None or (y is None and sample_weight is not None):
        raise InputError(
            "Data must be x, (x, y) or (x, y, sample_weight). Received: "
            f"{'no x' if x is None else 'sample_weight without y'}."
        )
    return tuple(part for part in (x, y, sample_weight) if part is not None)

"""Keras's own configuration, on which neither networks nor runs depend.

A `keras.json` in the user's home may give all layers another layout of images or another type. The
same command would then train another network on another host, without a word.
"""

import contextlib
from collections.abc import Iterator

_DEFAULTS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}


def use_keras_defaults() -> None:
    """Gives Keras the defaults of its documentation, for the rest of the process.

    A dtype policy that the program has set, such as mixed_bfloat16, stays.
    """
    import keras

    for name, value in _DEFAULTS.items():
        getattr(keras.config, f"set_{name}")(value)


@contextlib.contextmanager
def keras_defaults() -> Iterator[None]:
    """In this context, Keras has the defaults of `use_keras_defaults`."""
    import keras

    before = {name: getattr(keras.config, name)() for name in _DEFAULTS}
    use_keras_defaults()
    try:
        yield
    finally:
        for name, value in before.items():
            getattr(keras.config, f"set_{name}")(value)

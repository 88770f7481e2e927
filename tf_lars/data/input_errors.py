"""Errors that input pipelines raise in TensorFlow's threads."""

import contextlib
import re
import traceback
import types
from collections.abc import Iterator

import tensorflow as tf

from tf_lars.data import graph_reader
from tf_lars.data.records import example_reader
from tf_lars.errors import InputError


@contextlib.contextmanager
def told_by_input() -> Iterator[None]:
    """Within this context, an `InputError` of the input pipeline is raised as such.

    TensorFlow passes on only its text, as part of its own error.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        _let_go(stop)
        raise
    except tf.errors.OpError as error:
        _let_go(error)
        told = re.search(r"InputError: (.+)", error.message)
        if not told:
            # An image that has passed all checks; or a file that another host has read.
            named = (
                example_reader.undecodable()
                if "JPEG" in error.message
                else graph_reader.fault(error.message)
            )
            if named is None:
                raise
            raise named from error
        # An assertion in the graph puts its parts into brackets.
        raise InputError(told[1].replace("] [", " ").rstrip("]")) from error


def _let_go(error: BaseException | None) -> None:
    """Frees the variables of TensorFlow's functions that an error has passed through.

    They hold the iterator. If it lives until the interpreter ends, which kills the threads that
    read examples in Python, it waits for them forever.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # TensorFlow takes its own frames out of the traceback; those within still hold them.
            inner: types.FrameType | None = frame
            while inner is not None:
                with contextlib.suppress(RuntimeError):  # still running
                    inner.clear()
                inner = inner.f_back
        error = error.__cause__ or error.__context__

"""Models from the user's code: `package.module:function` or `path/to/file.py:function`.

The function is called as `function(num_classes=..., image_size=...)` and returns a `keras.Model`,
functional or subclassed, that maps float32 images `[batch, image_size, image_size, 3]` with
colours from 0 to 255 to logits `[batch, num_classes]`. `image_size` is None if the size changes
between epochs. The function runs in every worker process, after the seed has been set and within
the strategy's scope, so that all workers start with the same weights; the file must exist on every
machine.

Modules are found as by `python -m`: in the working directory and on PYTHONPATH. The folder of a
file is appended to the search path, so that the file can import its neighbours.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tf_lars.errors import InputError

if TYPE_CHECKING:
    import keras

CONTRACT = "function(num_classes=..., image_size=...) that returns a keras.Model"


def check(name: str) -> None:
    """Checks a name that contains a colon, as far as possible without running the code.

    Raises:
      InputError: Half of the name is missing, or the file or top-level package does not exist.
    """
    source, _, function = name.rpartition(":")
    if not source or not function.isidentifier():
        raise InputError(
            "Your own model must be package.module:function or path/to/file.py:function. "
            f"Received: {name!r}."
        )
    if _is_file(source):
        if not os.path.isfile(source):
            raise InputError(
                f"The file of --model must exist. Received: {name!r}, and there is no "
                f"{os.path.abspath(source)}. Paths are relative to the working directory."
            )
        return
    package = source.partition(".")[0]
    if not package.isidentifier() or importlib.util.find_spec(package) is None:
        raise InputError(
            f"The module of --model must be importable. Received: {name!r}, and there is no "
            f"module {package!r} in the working directory or on PYTHONPATH. Name a file by its "
            "path, path/to/file.py:function."
        )


def file_of(name: str) -> str | None:
    """Returns the path of the file in `path/to/file.py:function`, or None for any other name."""
    source = name.rpartition(":")[0]
    return source if source and _is_file(source) else None


def location_of(name: str) -> str | None:
    """Returns the path of the file or top-level package that a name would run; None if unknown.

    Raises:
      InputError: As for `check`.
    """
    check(name)
    path = file_of(name)
    if path is not None:
        return os.path.abspath(path)
    spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
    assert spec  # as checked
    if spec.has_location:
        return spec.origin
    # A package without __init__.py may lie in several folders; modules of the interpreter in none.
    folders = set(spec.submodule_search_locations or ())
    return folders.pop() if len(folders) == 1 else None


def create(name: str, *, num_classes: int, image_size: int | None) -> "keras.Model":
    """Calls the function and checks what it returns.

    Args:
      name: `package.module:function` or `path/to/file.py:function`.
      num_classes: Number of logits.
      image_size: Side of the square input in pixels; None for any size.

    Raises:
      InputError: The function cannot be found or called, or does not return a suitable model.
    """
    check(name)
    source, _, function_name = name.rpartition(":")
    module = _run(name, "cannot be imported", lambda: _import(source))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(
            f"{source} must define the function {function_name!r}. Received: {name!r}, which "
            f"{'does not exist' if function is None else 'is not a function'}."
        )
    arguments = {"num_classes": num_classes, "image_size": image_size}
    try:
        signature = inspect.signature(function)
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"--model needs a {CONTRACT}. Received: {function_name}{signature} in {source}, which "
            f"cannot be called like that ({error})."
        ) from error
    model = _run(name, "fails", lambda: function(**arguments))
    _check_model(name, model, num_classes, image_size)
    return model


def _is_file(source: str) -> bool:
    return source.endswith(".py") or os.sep in source


def _import(source: str) -> ModuleType:
    if not _is_file(source):
        return importlib.import_module(source)
    path = os.path.abspath(source)
    folder, file_name = os.path.split(path)
    # A unique name, which cannot collide with a module of the file's name.
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    module_name = f"model_file_{digest}_{os.path.splitext(file_name)[0]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not Python source; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _run(name: str, what: str, step: Callable):
    """Runs a step of the user's code; its exception becomes one sentence with its location."""
    try:
        return step()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"--model={name} {what}: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})."
        ) from error


def _check_model(name: str, model: Any, num_classes: int, image_size: int | None) -> None:
    """Builds the model if necessary and checks its output for images of this size."""
    import keras

    class Probe(keras.layers.Layer):
        """Calls the model as training does; calling a functional model directly infers less."""

        def call(self, image):
            return model(image)

    if not isinstance(model, keras.Model):
        raise InputError(
            f"--model={name} must return a keras.Model. Received: {type(model).__name__}."
        )
    image = keras.Input((image_size, image_size, 3))
    refuses = f"does not take images of shape [batch, {image_size}, {image_size}, 3]"
    _run(name, refuses, lambda: model(image))
    output = _run(name, refuses, lambda: Probe()(image))
    shape = getattr(output, "shape", None)
    if shape is None or tuple(shape) != (None, num_classes):
        described = type(output).__name__ if shape is None else list(shape)
        raise InputError(
            f"--model={name} must give logits of shape [batch, {num_classes}], one for each "
            f"class of the data. Received: {described}."
        )
    last: Any = model.layers[-1] if model.layers else None
    if (
        isinstance(last, keras.layers.Softmax)
        or getattr(last, "activation", None) is keras.activations.softmax
    ):
        raise InputError(
            f"--model={name} must give logits, since the loss applies the softmax. Received: a "
            f"last layer {last.name!r} with softmax. Leave it out."
        )

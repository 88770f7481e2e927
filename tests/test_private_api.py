"""A canary: names what has moved when Keras or TensorFlow changes what is private to them."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_lars import private_api
from tf_lars.optimizers.lars import LARS


def _look_up(path, subjects):
    """Returns the object of a path such as "model._compile_loss" or a dotted module or class."""
    first, *rest = path.split(".")
    if first in subjects:
        found = subjects[first]
    else:
        parts, rest = path.split("."), []
        while True:
            try:
                found = importlib.import_module(".".join(parts))
                break
            except ImportError:
                rest.insert(0, parts.pop())
    for name in rest:
        found = getattr(found, name)
    return found


@pytest.fixture(scope="module")
def subjects():
    """A compiled and trained model, a layer with a random state, and an optimizer."""
    dropout = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((4,)), dropout, keras.layers.Dense(2)])
    model.compile(LARS(0.1, use_ema=True), loss="mse", metrics=["mae"], weighted_metrics=["mse"])
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    return {"model": model, "layer": dropout, "optimizer": model.optimizer}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (owner, name)
        for table in (private_api.KERAS_NAMES, private_api.TENSORFLOW_NAMES)
        for owner, names in table.items()
        for name in names
    ],
)
def test_a_private_name_is_where_it_was(owner, name, subjects):
    try:
        found = hasattr(_look_up(owner, subjects), name)
    except AttributeError:
        found = False
    assert found, (
        f"{owner}.{name} has moved in Keras {keras.__version__}, TensorFlow {tf.__version__}: "
        "mend its function in tf_lars/private_api.py"
    )


@pytest.mark.parametrize("name", private_api.OPTIMIZER_HOOKS)
def test_a_hook_of_the_optimizer_is_where_it_was(name):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer.build(model.trainable_variables)
    assert hasattr(optimizer, name), (
        f"keras.optimizers.Optimizer.{name} has moved in Keras {keras.__version__}: mend "
        "tf_lars/optimizers/lars.py"
    )


def test_every_private_name_that_the_module_uses_is_listed():
    listed = {
        name
        for table in (private_api.KERAS_NAMES, private_api.TENSORFLOW_NAMES)
        for names in table.values()
        for name in names
    }
    used = set()
    for function in vars(private_api).values():
        if callable(function) and getattr(function, "__module__", "") == private_api.__name__:
            function = getattr(function, "__wrapped__", function)
            code = function.__code__
            nested = [c for c in code.co_consts if hasattr(c, "co_names")]
            used |= {name for c in (code, *nested) for name in c.co_names}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    assert private - listed == {
        "_in_multi_worker_mode"
    }  # only a strategy of several workers has it

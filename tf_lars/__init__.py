"""Large-batch training for TensorFlow and Keras: LARS, its schedules, and the loop around them."""

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_lars import planner, recipes, schedules
    from tf_lars.distribute.strategy import create_strategy
    from tf_lars.optimizers.lars import LARS
    from tf_lars.training.trainer import Trainer

__version__ = "0.1.0"

__all__ = ["LARS", "Trainer", "__version__", "create_strategy", "planner", "recipes", "schedules"]

_EXPORTS = {
    "LARS": "tf_lars.optimizers.lars",
    "Trainer": "tf_lars.training.trainer",
    "create_strategy": "tf_lars.distribute.strategy",
}
_MODULES = ("planner", "recipes", "schedules")


if "keras" in sys.modules:
    # So that keras.models.load_model finds the classes in a file without another import.
    with contextlib.suppress(ImportError):  # Keras 2, or another backend than TensorFlow
        importlib.import_module(_EXPORTS["LARS"])
        importlib.import_module("tf_lars.distribute.grouped_batch_norm")
        importlib.import_module("tf_lars.training.fused_batch_norm")


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import; what does not need it must not wait for it.
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tf_lars.{name}")
    raise AttributeError(f"module 'tf_lars' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Large-batch training for TensorFlow and Keras: LARS, its schedules, and the loop around them."""

import importlib
from typing import Any

_EXPORTS = {"LARS": "tf_lars.optimizer", "Trainer": "tf_lars.training"}
_MODULES = ("planner", "recipes", "schedules")

__all__ = [*_EXPORTS, *_MODULES]


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import; what does not need it must not wait for it.
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tf_lars.{name}")
    raise AttributeError(f"module 'tf_lars' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
